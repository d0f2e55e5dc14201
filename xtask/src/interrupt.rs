//! Ctrl-C and SIGTERM, as a flag that every waiting loop reads.
//!
//! Nothing dies inside a signal handler: loops return [`Interrupted`], and the guards on the way
//! out end what they hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Short enough that Ctrl-C feels immediate, long enough to cost nothing.
const POLL: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub struct Interrupt {
    asked: Arc<AtomicBool>,
}

/// Somebody asked this program to stop; not a failure of any step.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

impl Interrupt {
    pub fn listen() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&asked))
                .with_context(|| format!("cannot listen for signal {signal}"))?;
        }
        Ok(Self { asked })
    }

    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    pub fn check(&self) -> Result<(), Interrupted> {
        if self.is_asked() {
            Err(Interrupted)
        } else {
            Ok(())
        }
    }

    /// Sleeps one polling interval, or not at all once a stop was asked for.
    pub fn pause(&self) -> Result<(), Interrupted> {
        self.check()?;
        std::thread::sleep(POLL);
        self.check()
    }

    /// Sleeps `time` in intervals that notice a stop.
    pub fn sleep(&self, time: Duration) -> Result<(), Interrupted> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.pause()?;
        }
        Ok(())
    }
}

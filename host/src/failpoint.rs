//! Places at which a debug build kills itself on cue, so that a test can end the daemon at each
//! step of a launch. In a release build there is nothing here.

/// Kills the daemon if it was told to die here, as `SIGKILL` from outside would.
#[cfg(debug_assertions)]
pub fn reach(name: &str) {
    armed::reach(name);
}

#[cfg(not(debug_assertions))]
pub fn reach(_name: &str) {}

/// Arms one failpoint: `name:count` dies when `name` is reached the count-th time.
#[cfg(debug_assertions)]
pub fn arm(text: &str) -> bool {
    armed::arm(text)
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static ARMED: OnceLock<(String, AtomicU32)> = OnceLock::new();

    pub(super) fn arm(text: &str) -> bool {
        let parsed = text
            .split_once(':')
            .and_then(|(name, count)| Some((name.to_owned(), count.parse().ok()?)));
        parsed.is_some_and(|(name, count)| ARMED.set((name, AtomicU32::new(count))).is_ok())
    }

    pub(super) fn reach(name: &str) {
        let Some((armed, left)) = ARMED.get() else {
            return;
        };
        if armed == name && left.fetch_sub(1, Ordering::Relaxed) == 1 {
            let own = rustix::process::getpid();
            let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
            loop {
                std::thread::park();
            }
        }
    }
}

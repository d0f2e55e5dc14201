//! A point in time that neither a clock step nor a restart moves: within a boot it is counted on
//! CLOCK_BOOTTIME, which nobody sets and which goes on while the machine sleeps; across boots,
//! where nothing else is left, on the wall clock.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    pub wall: Timestamp,
    /// The same moment on the clock of one boot; none in a record that did not keep it.
    pub boot: Option<BootTime>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootTime {
    pub boot_id: String,
    /// Milliseconds of CLOCK_BOOTTIME.
    pub milliseconds: u64,
}

/// This boot, and its clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Now {
    pub wall: Timestamp,
    pub boot: BootTime,
}

impl Now {
    pub fn read() -> Self {
        let clock = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(clock.tv_sec).unwrap_or(0);
        let milliseconds = seconds * 1_000 + u64::try_from(clock.tv_nsec).unwrap_or(0) / 1_000_000;
        Self {
            wall: Timestamp::now(),
            boot: BootTime {
                boot_id: crate::qemu::process::boot_id(),
                milliseconds,
            },
        }
    }
}

impl Deadline {
    /// A moment that is known by the wall clock only.
    pub fn at(wall: Timestamp) -> Self {
        Self { wall, boot: None }
    }

    /// `None`: later than any clock can say.
    pub fn after(now: &Now, time: Duration) -> Option<Self> {
        let wall = now
            .wall
            .checked_add(SignedDuration::try_from(time).ok()?)
            .ok()?;
        let milliseconds = u64::try_from(time.as_millis()).ok()?;
        Some(Self {
            wall,
            boot: Some(BootTime {
                boot_id: now.boot.boot_id.clone(),
                milliseconds: now.boot.milliseconds.checked_add(milliseconds)?,
            }),
        })
    }

    /// How long it is from `now`; zero when it has passed.
    pub fn left(&self, now: &Now) -> Duration {
        match &self.boot {
            Some(boot) if boot.boot_id == now.boot.boot_id => {
                Duration::from_millis(boot.milliseconds.saturating_sub(now.boot.milliseconds))
            }
            _ => Duration::try_from(now.wall.duration_until(self.wall)).unwrap_or_default(),
        }
    }

    /// The same deadline, counted on the clock of this boot from now on.
    pub fn anchored(&self, now: &Now) -> Self {
        match &self.boot {
            Some(boot) if boot.boot_id == now.boot.boot_id => self.clone(),
            _ => {
                let left = u64::try_from(self.left(now).as_millis()).unwrap_or(u64::MAX);
                Self {
                    wall: self.wall,
                    boot: Some(BootTime {
                        boot_id: now.boot.boot_id.clone(),
                        milliseconds: now.boot.milliseconds.saturating_add(left),
                    }),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(wall: &str, boot_id: &str, seconds: u64) -> Now {
        Now {
            wall: wall.parse().unwrap(),
            boot: BootTime {
                boot_id: boot_id.to_owned(),
                milliseconds: seconds * 1_000,
            },
        }
    }

    #[test]
    fn a_clock_step_moves_nothing_within_a_boot_and_the_wall_counts_across_boots() {
        let start = now("2026-01-01T00:00:00Z", "a", 100);
        let deadline = Deadline::after(&start, Duration::from_secs(3_600)).unwrap();
        let cases = [
            // A minute later.
            (now("2026-01-01T00:01:00Z", "a", 160), 3_540),
            // The clock was set a year ahead, and back.
            (now("2027-01-01T00:01:00Z", "a", 160), 3_540),
            (now("2025-01-01T00:01:00Z", "a", 160), 3_540),
            // Over.
            (now("2026-01-01T00:00:00Z", "a", 3_700), 0),
            (now("2026-01-01T00:00:00Z", "a", 9_999), 0),
            // Another boot: only the wall clock is left.
            (now("2026-01-01T00:30:00Z", "b", 5), 1_800),
            (now("2026-01-01T02:00:00Z", "b", 5), 0),
        ];
        for (now, left) in cases {
            assert_eq!(deadline.left(&now), Duration::from_secs(left), "{now:?}");
        }
        // Anchored in the new boot, it keeps its distance whatever the clock does.
        let rebooted = now("2026-01-01T00:30:00Z", "b", 5);
        let anchored = deadline.anchored(&rebooted);
        let stepped = now("2030-01-01T00:00:00Z", "b", 65);
        assert_eq!(anchored.left(&stepped), Duration::from_secs(1_740));
        assert_eq!(anchored.wall, deadline.wall);
    }
}

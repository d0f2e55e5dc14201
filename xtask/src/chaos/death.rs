//! When the daemon dies in each round.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use super::dice::Dice;

/// The steps of a launch at which a debug build of the daemon kills itself on cue.
pub(super) const FAILPOINTS: [&str; 8] = [
    "reserved",
    "recorded",
    "spawned",
    "greeting",
    "port",
    "cont",
    "published",
    "answered",
];

/// Of the deaths at a random time, one in so many comes before the daemon serves: while it takes
/// over what the one before left.
const ONE_IN_START_UP: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// When the failpoint is reached for the count-th time.
    Failpoint { name: &'static str, count: u64 },
    /// So long after it began to serve.
    Serving(Duration),
    /// So long after it was started.
    StartUp(Duration),
}

impl fmt::Display for Death {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failpoint { name, count } => write!(formatter, "failpoint {name}:{count}"),
            Self::Serving(time) => write!(formatter, "{} ms into its service", time.as_millis()),
            Self::StartUp(time) => write!(formatter, "{} ms after its start", time.as_millis()),
        }
    }
}

/// Every other round ends at a failpoint, each of them as often as the others.
#[derive(Debug)]
pub(super) struct Deaths {
    dice: Dice,
    /// Failpoints that are next; refilled with all of them in another order.
    queue: VecDeque<&'static str>,
}

impl Deaths {
    pub(super) fn new(dice: Dice) -> Self {
        Self {
            dice,
            queue: VecDeque::new(),
        }
    }

    pub(super) fn of_round(&mut self, round: u32) -> Death {
        if round % 2 == 1 {
            let name = self.next_failpoint();
            let count = self.dice.within(1..4);
            return Death::Failpoint { name, count };
        }
        if self.dice.within(0..ONE_IN_START_UP) == 0 {
            Death::StartUp(self.dice.millis(10..2_500))
        } else {
            Death::Serving(self.dice.millis(50..5_000))
        }
    }

    /// The failpoint was not reached in its round, and comes again.
    pub(super) fn missed(&mut self, name: &'static str) {
        self.queue.push_front(name);
    }

    fn next_failpoint(&mut self) -> &'static str {
        if self.queue.is_empty() {
            let mut all = FAILPOINTS;
            self.dice.shuffle(&mut all);
            self.queue.extend(all);
        }
        self.queue.pop_front().unwrap_or(FAILPOINTS[0])
    }
}

/// How often the daemon died of what.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    at_failpoint: [u32; FAILPOINTS.len()],
    serving: u32,
    start_up: u32,
}

impl Histogram {
    pub(super) fn count(&mut self, death: Death) {
        match death {
            Death::Failpoint { name, .. } => {
                let position = FAILPOINTS.iter().position(|known| *known == name);
                if let Some(count) = position.and_then(|at| self.at_failpoint.get_mut(at)) {
                    *count += 1;
                }
            }
            Death::Serving(_) => self.serving += 1,
            Death::StartUp(_) => self.start_up += 1,
        }
    }

    /// Of the failpoints, how often the one that was reached least.
    pub(super) fn rarest(&self) -> u32 {
        self.at_failpoint.iter().copied().min().unwrap_or_default()
    }

    pub(super) fn lines(&self) -> Vec<String> {
        FAILPOINTS
            .iter()
            .zip(self.at_failpoint)
            .map(|(name, count)| (format!("failpoint {name}"), count))
            .chain([
                ("while it served".to_owned(), self.serving),
                ("while it started".to_owned(), self.start_up),
            ])
            .map(|(what, count)| format!("{what:<22} {count:>4}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failpoint_comes_as_often_as_the_others() {
        let mut deaths = Deaths::new(Dice::new(3));
        let mut counted = Histogram::default();
        for round in 1..=48 {
            counted.count(deaths.of_round(round));
        }
        assert_eq!(counted.at_failpoint, [3; FAILPOINTS.len()]);
        assert_eq!(counted.serving + counted.start_up, 24);
        assert!(counted.start_up > 0);
        assert!(counted.lines().iter().any(|line| line.ends_with("   3")));
    }

    #[test]
    fn a_missed_failpoint_is_the_next() {
        let mut deaths = Deaths::new(Dice::new(3));
        let Death::Failpoint { name, .. } = deaths.of_round(1) else {
            panic!("odd rounds end at a failpoint");
        };
        deaths.missed(name);
        let again = deaths.of_round(3);
        assert!(matches!(again, Death::Failpoint { name: next, .. } if next == name));
    }
}

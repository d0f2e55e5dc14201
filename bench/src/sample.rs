//! Samples of one quantity, and the two numbers that are said of them.
//!
//! A mean hides the slow ones and is pulled by them; so the median is what a budget is held
//! against, and the 99th percentile shows the tail. Both are samples that were really seen
//! (nearest rank), so the 99th percentile of fewer than 100 samples is their maximum.

use std::time::{Duration, Instant};

/// What was measured, in the unit of its figure.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Each sample without a part that is known.
    pub(crate) fn minus(&self, part: f64) -> Self {
        self.0.iter().map(|value| value - part).collect()
    }

    /// The smallest sample that `percent` of all samples do not exceed; 0 where there is none.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * percent).div_ceil(100);
        sorted.get(rank.max(1) - 1).copied().unwrap_or(0.0)
    }

    pub(crate) fn p50(&self) -> f64 {
        self.percentile(50)
    }

    pub(crate) fn p99(&self) -> f64 {
        self.percentile(99)
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        Self(values.into_iter().collect())
    }
}

/// How long a future takes, with what it gives.
pub(crate) async fn timed<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let started = Instant::now();
    let result = work.await;
    (started.elapsed(), result)
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub(crate) fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_that_were_seen() {
        let hundred: Samples = (1..=100).rev().map(f64::from).collect();
        assert_eq!((hundred.p50(), hundred.p99()), (50.0, 99.0));
        assert_eq!(hundred.percentile(100), 100.0);
        let thousand: Samples = (1..=1000).map(f64::from).collect();
        assert_eq!((thousand.p50(), thousand.p99()), (500.0, 990.0));
    }

    #[test]
    fn the_tail_of_few_samples_is_their_maximum() {
        let few: Samples = [3.0, 9.0, 1.0].into_iter().collect();
        assert_eq!((few.p50(), few.p99(), few.len()), (3.0, 9.0, 3));
        let one: Samples = [7.0].into_iter().collect();
        assert_eq!((one.p50(), one.p99()), (7.0, 7.0));
        assert_eq!(Samples::default().p50(), 0.0);
    }
}

//! Chance with a seed, so that a run can be looked at again: the same seed makes the same choices,
//! as far as the machine's own timing lets it.

use std::ops::Range;
use std::time::Duration;

/// `SplitMix64`: a counter and a mixer, good enough to choose by.
#[derive(Clone, Debug)]
pub(super) struct Dice {
    state: u64,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Others of their own, whose choices do not depend on how often these are thrown.
    pub(super) fn fork(&mut self) -> Self {
        Self::new(self.next())
    }

    /// A number in the range; its start where the range is empty.
    pub(super) fn within(&mut self, range: Range<u64>) -> u64 {
        match range.end.saturating_sub(range.start) {
            0 => range.start,
            width => range.start + self.next() % width,
        }
    }

    pub(super) fn millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }

    /// One out of them; nothing out of nothing.
    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let length = u64::try_from(from.len()).ok()?;
        let index = usize::try_from(self.within(0..length)).ok()?;
        from.get(index)
    }

    pub(super) fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            let end = u64::try_from(last + 1).unwrap_or(u64::MAX);
            let other = usize::try_from(self.within(0..end)).unwrap_or(0);
            values.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides() {
        let throw = |seed| {
            let mut dice = Dice::new(seed);
            let mut values: Vec<u32> = (0..20).collect();
            dice.shuffle(&mut values);
            (values, dice.within(3..9), dice.fork().next())
        };
        assert_eq!(throw(7), throw(7));
        assert_ne!(throw(7), throw(8));
        let (mut values, within, _) = throw(7);
        assert!((3..9).contains(&within));
        values.sort_unstable();
        assert!(values.iter().copied().eq(0..20));
    }

    #[test]
    fn nothing_is_chosen_out_of_nothing() {
        let mut dice = Dice::new(1);
        assert_eq!(dice.pick::<u8>(&[]), None);
        assert_eq!(dice.within(4..4), 4);
        assert_eq!(dice.pick(&[5]), Some(&5));
    }
}

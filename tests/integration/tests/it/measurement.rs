//! Registers that backends compute, held against what others compute from the same files.
//!
//! - `golden`: values that other programs gave once, carried with the digest of each input.
//! - `oracle`: random requests, measured by the backend and by `sev-snp-measure` in a Python beside
//!   the test; and MRTDs of random images, by a calculation in the same Python.
//! - `igvm`: random IGVM files, measured by the backend and by a program with the crate `igvm`.
//! - `signature`: CPU models as a real QEMU describes them.
//!
//! Each backend is a component that the host loads as packaged, and every digest of a file is the
//! host's. `cargo xtask test --only oracle` runs the second and the third alone. What they start from
//! is fixed, so that a failure comes again; `CASEMATE_ORACLE_SEED` is another number to start from.

mod golden;
mod igvm;
mod oracle;
mod signature;
mod site;

/// What chance starts from, where nobody says it.
const SEED: u64 = 20_260_821;
const SEED_VARIABLE: &str = "CASEMATE_ORACLE_SEED";

/// Random numbers that a seed repeats (SplitMix64).
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    /// From the seed of this run, which is printed.
    fn of_this_run() -> Self {
        let seed = match std::env::var(SEED_VARIABLE) {
            Ok(text) => text.parse().expect("a seed is a number"),
            Err(_) => SEED,
        };
        println!("{SEED_VARIABLE}={seed}");
        Self(seed)
    }

    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.number() % limit as u64).expect("it is below")
    }

    fn within(&mut self, range: std::ops::RangeInclusive<usize>) -> usize {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    fn is(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn one_of<'a, T>(&mut self, values: &'a [T]) -> &'a T {
        &values[self.below(values.len())]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let numbers = (0..count.div_ceil(8)).flat_map(|_| self.number().to_le_bytes());
        let mut bytes: Vec<u8> = numbers.collect();
        bytes.truncate(count);
        bytes
    }

    fn shuffle<T>(&mut self, values: &mut [T]) {
        for at in (1..values.len()).rev() {
            values.swap(at, self.below(at + 1));
        }
    }
}

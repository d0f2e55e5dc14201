//! How often somebody may do something: a bucket of tokens for each, in bounded memory.
//!
//! What is kept of a bucket is the time at which it is full again (the generic cell rate algorithm),
//! so nothing has to be refilled, and a bucket that is full is forgotten.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Buckets of one table. Each has some 60 bytes; more clients at once than a daemon has.
const MAX_BUCKETS: usize = 4_096;

/// Whose bucket it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// A `[[client]]`. They are as many as the config has, and always have a bucket of their own.
    Client(Arc<str>),
    /// SHA-256 of a certificate.
    Certificate(Arc<str>),
    Address(IpAddr),
    User(u32),
    /// Those for whom there is no room.
    Others,
}

impl Key {
    /// An IPv6 client has a whole /64 to call from, so that is what counts.
    pub(super) fn address(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                let prefix = address.to_bits() & !u128::from(u64::MAX);
                Ipv6Addr::from_bits(prefix).into()
            }
        })
    }

    /// For messages.
    pub(super) fn described(&self) -> String {
        match self {
            Self::Client(name) => format!("client {name:?}"),
            Self::Certificate(fingerprint) => format!("certificate {fingerprint}"),
            Self::Address(IpAddr::V6(prefix)) if !prefix.is_loopback() => format!("{prefix}/64"),
            Self::Address(address) => address.to_string(),
            Self::User(uid) => format!("user {uid}"),
            Self::Others => "the many clients of now together".to_owned(),
        }
    }
}

/// How fast buckets fill, and how much they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// Between two tokens.
    interval: Duration,
    /// In which an empty bucket has filled, but for one token.
    tolerance: Duration,
}

impl Rate {
    pub(super) const fn new(interval: Duration, burst: u32) -> Self {
        Self {
            interval,
            tolerance: interval.saturating_mul(burst.saturating_sub(1)),
        }
    }

    /// None where there is no limit.
    pub(super) fn per_second(count: u32, burst: u32) -> Option<Self> {
        let interval = Duration::from_secs(1).checked_div(count)?;
        Some(Self::new(interval, burst))
    }
}

#[derive(Debug, Default)]
pub(super) struct Buckets {
    /// When each is full again.
    full: Mutex<HashMap<Key, Instant>>,
}

impl Buckets {
    /// Takes a token, or says how long there is none.
    pub(super) fn take(&self, key: Key, rate: Rate, now: Instant) -> Result<(), Duration> {
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if full.contains_key(&key) || matches!(key, Key::Client(_)) {
            key
        } else {
            if full.len() >= MAX_BUCKETS {
                full.retain(|_, at| *at > now);
            }
            if full.len() >= MAX_BUCKETS {
                Key::Others
            } else {
                key
            }
        };
        let at = full.get(&key).copied().unwrap_or(now).max(now);
        wait(at, rate, now)?;
        full.insert(key, at + rate.interval);
        Ok(())
    }

    /// As `take`, and takes nothing.
    pub(super) fn look(&self, key: &Key, rate: Rate, now: Instant) -> Result<(), Duration> {
        let full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        let at = full.get(key).or_else(|| {
            // Who found no room shares.
            (full.len() >= MAX_BUCKETS).then(|| full.get(&Key::Others))?
        });
        at.map_or(Ok(()), |at| wait((*at).max(now), rate, now))
    }
}

fn wait(full_at: Instant, rate: Rate, now: Instant) -> Result<(), Duration> {
    let missing = full_at - now;
    match missing.checked_sub(rate.tolerance) {
        Some(wait) if !wait.is_zero() => Err(wait),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Key = Key::Address(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate::per_second(10, 3).unwrap();
        let (buckets, start) = (Buckets::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        for _ in 0..3 {
            assert_eq!(buckets.take(ADDRESS, rate, start), Ok(()));
        }
        let wait = Err(Duration::from_millis(100));
        assert_eq!(buckets.look(&ADDRESS, rate, start), wait);
        assert_eq!(buckets.take(ADDRESS, rate, start), wait);
        // What is refused costs nothing.
        assert_eq!(buckets.take(ADDRESS, rate, at(100)), Ok(()));
        assert!(buckets.take(ADDRESS, rate, at(100)).is_err());
        // Another has its own.
        assert_eq!(buckets.take(Key::User(1), rate, at(100)), Ok(()));
        // It is full again, and no fuller.
        for _ in 0..3 {
            assert_eq!(buckets.take(ADDRESS, rate, at(10_000)), Ok(()));
        }
        assert!(buckets.take(ADDRESS, rate, at(10_000)).is_err());
        assert_eq!(Rate::per_second(0, 3), None);
    }

    #[test]
    fn a_table_is_bounded_and_clients_of_the_config_have_room() {
        let rate = Rate::new(Duration::from_secs(60), 1);
        let (buckets, start) = (Buckets::default(), Instant::now());
        let count = || buckets.full.lock().unwrap().len();
        for uid in 0..MAX_BUCKETS as u32 {
            assert_eq!(buckets.take(Key::User(uid), rate, start), Ok(()));
        }
        // The rest share one.
        assert_eq!(buckets.take(ADDRESS, rate, start), Ok(()));
        let stranger = Key::Certificate("ab".into());
        assert!(buckets.take(stranger.clone(), rate, start).is_err());
        assert!(buckets.look(&stranger, rate, start).is_err());
        assert_eq!(count(), MAX_BUCKETS + 1);
        let client = Key::Client("ci".into());
        assert_eq!(buckets.take(client, rate, start), Ok(()));
        // Full ones are forgotten.
        let later = start + Duration::from_secs(61);
        assert_eq!(buckets.take(stranger, rate, later), Ok(()));
        assert_eq!(count(), 1);
    }

    #[test]
    fn addresses_of_one_network_are_one() {
        let key = |text: &str| Key::address(text.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::2:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
        assert_ne!(key("10.0.0.2"), key("10.0.0.1"));
    }
}

//! Host resources that are counted: VM slots, user ids, host ports. A slot is taken before anything
//! is spent, user and port during the launch; each is given back once, when its guard drops.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Something of which there is no more.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum LeaseError {
    #[error("all {limit} VM slots are taken")]
    Slots { limit: usize },
    #[error("all user ids of the range {}-{} are taken", .range.start(), .range.end())]
    Uids { range: RangeInclusive<u32> },
    #[error("no free port is left in {}-{}", .range.start(), .range.end())]
    Ports { range: RangeInclusive<u16> },
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is one insertion or removal, so a panic leaves them sound.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Slots for VMs. A limit of 0 means none.
#[derive(Clone, Debug)]
pub struct Slots(Arc<Mutex<SlotCount>>);

#[derive(Debug)]
struct SlotCount {
    limit: usize,
    taken: usize,
}

#[derive(Debug)]
pub struct SlotLease(Arc<Mutex<SlotCount>>);

impl Slots {
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(SlotCount { limit, taken: 0 })))
    }

    /// A limit below what is taken refuses further VMs and ends none.
    pub fn set_limit(&self, limit: usize) {
        lock(&self.0).limit = limit;
    }

    /// Counts a VM that runs already, whatever the limit.
    pub fn count(&self) -> SlotLease {
        lock(&self.0).taken += 1;
        SlotLease(Arc::clone(&self.0))
    }

    pub fn take(&self) -> Result<SlotLease, LeaseError> {
        let mut slots = lock(&self.0);
        if slots.limit != 0 && slots.taken >= slots.limit {
            return Err(LeaseError::Slots { limit: slots.limit });
        }
        slots.taken += 1;
        Ok(SlotLease(Arc::clone(&self.0)))
    }
}

impl Drop for SlotLease {
    fn drop(&mut self) {
        lock(&self.0).taken -= 1;
    }
}

/// Numbers of a range, each held by one guard at a time.
#[derive(Clone, Debug)]
struct Pool {
    range: RangeInclusive<u32>,
    taken: Arc<Mutex<BTreeSet<u32>>>,
}

#[derive(Debug)]
struct PoolLease {
    number: u32,
    taken: Arc<Mutex<BTreeSet<u32>>>,
}

impl Pool {
    fn take(&self, skipped: &BTreeSet<u32>) -> Option<PoolLease> {
        let mut taken = lock(&self.taken);
        let number = self
            .range
            .clone()
            .find(|number| !taken.contains(number) && !skipped.contains(number))?;
        taken.insert(number);
        Some(PoolLease {
            number,
            taken: Arc::clone(&self.taken),
        })
    }
}

impl Drop for PoolLease {
    fn drop(&mut self) {
        lock(&self.taken).remove(&self.number);
    }
}

/// User ids for QEMU processes: one VM cannot read another's files.
#[derive(Clone, Debug)]
pub struct Uids(Pool);

#[derive(Debug)]
pub struct UidLease(PoolLease);

impl Uids {
    pub fn new(range: RangeInclusive<u32>) -> Self {
        Self(Pool {
            range,
            taken: Arc::default(),
        })
    }

    pub fn take(&self) -> Result<UidLease, LeaseError> {
        self.0
            .take(&BTreeSet::new())
            .map(UidLease)
            .ok_or_else(|| LeaseError::Uids {
                range: self.0.range.clone(),
            })
    }
}

impl Uids {
    /// Holds a user id that a process of an earlier daemon has; `None` where it is none of the
    /// range, or held already.
    pub fn reserve(&self, uid: u32) -> Option<UidLease> {
        let inserted = self.0.range.contains(&uid) && lock(&self.0.taken).insert(uid);
        inserted.then(|| {
            UidLease(PoolLease {
                number: uid,
                taken: Arc::clone(&self.0.taken),
            })
        })
    }
}

impl UidLease {
    pub fn uid(&self) -> u32 {
        self.0.number
    }
}

/// Host ports that are forwarded to agents.
#[derive(Clone, Debug)]
pub struct Ports {
    pool: Pool,
    range: RangeInclusive<u16>,
    /// The daemon's own.
    reserved: BTreeSet<u32>,
}

#[derive(Debug)]
pub struct PortLease(PoolLease);

impl Ports {
    pub fn new(range: RangeInclusive<u16>, reserved: impl IntoIterator<Item = u16>) -> Self {
        let pool = Pool {
            range: u32::from(*range.start())..=u32::from(*range.end()),
            taken: Arc::default(),
        };
        Self {
            pool,
            range,
            reserved: reserved.into_iter().map(u32::from).collect(),
        }
    }

    /// Another range, with what is taken now.
    pub fn with_range(&self, range: RangeInclusive<u16>) -> Self {
        Self {
            pool: Pool {
                range: u32::from(*range.start())..=u32::from(*range.end()),
                taken: Arc::clone(&self.pool.taken),
            },
            range,
            reserved: self.reserved.clone(),
        }
    }

    /// A port that no VM of this daemon has, and that is none of `busy`: ports that turned out to
    /// be another program's.
    pub fn take(&self, busy: &BTreeSet<u16>) -> Result<PortLease, LeaseError> {
        let mut skipped = self.reserved.clone();
        skipped.extend(busy.iter().copied().map(u32::from));
        let lease = self.pool.take(&skipped);
        lease.map(PortLease).ok_or_else(|| LeaseError::Ports {
            range: self.range.clone(),
        })
    }
}

impl PortLease {
    pub fn port(&self) -> u16 {
        u16::try_from(self.0.number).expect("the range is one of u16")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_given_back() {
        let slots = Slots::new(2);
        let first = slots.take().unwrap();
        let _second = slots.take().unwrap();
        assert_eq!(slots.take().unwrap_err(), LeaseError::Slots { limit: 2 });
        drop(first);
        slots.take().unwrap();
        let counted = Slots::new(1);
        let _running = counted.count();
        assert!(counted.take().is_err());
        slots.set_limit(1);
        drop(slots.take());
        assert_eq!(slots.take().unwrap_err(), LeaseError::Slots { limit: 1 });
        let unlimited = Slots::new(0);
        let _many: Vec<_> = (0..100).map(|_| unlimited.take().unwrap()).collect();
    }

    #[test]
    fn ports_leave_out_the_daemons_own_and_busy_ones() {
        let ports = Ports::new(6100..=6103, [6101]);
        let first = ports.take(&BTreeSet::new()).unwrap();
        assert_eq!(first.port(), 6100);
        let second = ports.take(&[6102].into()).unwrap();
        assert_eq!(second.port(), 6103);
        assert!(ports.take(&[6102].into()).is_err());
        let widened = ports.with_range(6100..=6104);
        assert_eq!(widened.take(&[6102].into()).unwrap().port(), 6104);
        drop(first);
        assert_eq!(ports.take(&[6102].into()).unwrap().port(), 6100);
    }

    #[test]
    fn two_vms_never_share_a_user() {
        let uids = Uids::new(5..=6);
        let (one, two) = (uids.take().unwrap(), uids.take().unwrap());
        assert_ne!(one.uid(), two.uid());
        assert!(uids.take().is_err());
        drop(two);
        let _held = uids.reserve(6).unwrap();
        assert!(uids.take().is_err());
        assert!(uids.reserve(6).is_none() && uids.reserve(7).is_none());
    }
}

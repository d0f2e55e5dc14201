//! Host resources that are counted: VMs, vCPUs, memory, what plans take by name, user ids, host
//! ports. All are taken before anything is spent; each is given back once, when its guard drops.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Something of which there is no more.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum LeaseError {
    #[error("{}", .resource.refusal(*.wanted, *.free, *.limit))]
    Capacity {
        resource: Resource,
        wanted: u64,
        free: u64,
        limit: u64,
    },
    #[error("all user ids of the range {}-{} are taken", .range.start(), .range.end())]
    Uids { range: RangeInclusive<u32> },
    #[error("no free port is left in {}-{}", .range.start(), .range.end())]
    Ports { range: RangeInclusive<u16> },
}

/// What VMs share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    Vms,
    Vcpus,
    Memory,
    /// What plans take by name.
    Lease(String),
}

impl Resource {
    fn refusal(&self, wanted: u64, free: u64, limit: u64) -> String {
        match self {
            Self::Vms => format!("all {limit} VM slots are taken"),
            Self::Vcpus => {
                format!("{wanted} vCPUs are wanted, and {free} of the host's {limit} are free")
            }
            Self::Memory => format!(
                "{} of memory is wanted, and {} of {} for VMs is free",
                mebibytes(wanted),
                mebibytes(free),
                mebibytes(limit)
            ),
            Self::Lease(name) => {
                format!("{wanted} of {name:?} is wanted, and {free} of {limit} is free")
            }
        }
    }
}

/// Wanted sizes are rounded up and free ones are exact enough: limits are set in whole MiB.
fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is one insertion or removal, so a panic leaves them sound.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What VMs take of the host, and how much of it there is. One lock over all of it: a VM gets all
/// that it needs or nothing.
#[derive(Clone, Debug)]
pub struct Capacity(Arc<Mutex<Account>>);

/// Limits; 0 means none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CapacityLimits {
    pub vms: u64,
    pub vcpus: u64,
    pub memory_bytes: u64,
    /// What plans take by name; of what is not named there is none.
    pub leases: BTreeMap<String, u64>,
}

/// What one VM takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    pub vms: u64,
    pub vcpus: u64,
    pub memory_bytes: u64,
    pub leases: BTreeMap<String, u64>,
}

/// How much is taken and what the limits are, for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    pub taken: Demand,
    pub limits: CapacityLimits,
}

#[derive(Debug, Default)]
struct Account {
    limits: CapacityLimits,
    taken: Demand,
}

impl Account {
    fn check(&self, demand: &Demand) -> Result<(), LeaseError> {
        let (taken, limits) = (&self.taken, &self.limits);
        check(Resource::Vms, demand.vms, taken.vms, limits.vms)?;
        check(Resource::Vcpus, demand.vcpus, taken.vcpus, limits.vcpus)?;
        check(
            Resource::Memory,
            demand.memory_bytes,
            taken.memory_bytes,
            limits.memory_bytes,
        )?;
        for (name, wanted) in &demand.leases {
            let limit = limits.leases.get(name).copied().unwrap_or(0);
            let taken = taken.leases.get(name).copied().unwrap_or(0);
            let free = limit.saturating_sub(taken);
            if *wanted > free {
                return Err(LeaseError::Capacity {
                    resource: Resource::Lease(name.clone()),
                    wanted: *wanted,
                    free,
                    limit,
                });
            }
        }
        Ok(())
    }

    fn add(&mut self, demand: &Demand) {
        let taken = &mut self.taken;
        taken.vms += demand.vms;
        taken.vcpus += demand.vcpus;
        taken.memory_bytes = taken.memory_bytes.saturating_add(demand.memory_bytes);
        for (name, amount) in &demand.leases {
            *taken.leases.entry(name.clone()).or_default() += amount;
        }
    }

    fn subtract(&mut self, demand: &Demand) {
        let taken = &mut self.taken;
        taken.vms -= demand.vms;
        taken.vcpus -= demand.vcpus;
        taken.memory_bytes = taken.memory_bytes.saturating_sub(demand.memory_bytes);
        for (name, amount) in &demand.leases {
            if let Some(taken) = taken.leases.get_mut(name) {
                *taken -= amount;
            }
        }
    }
}

fn check(resource: Resource, wanted: u64, taken: u64, limit: u64) -> Result<(), LeaseError> {
    let free = limit.saturating_sub(taken);
    if wanted != 0 && limit != 0 && wanted > free {
        return Err(LeaseError::Capacity {
            resource,
            wanted,
            free,
            limit,
        });
    }
    Ok(())
}

impl Capacity {
    pub fn new(limits: CapacityLimits) -> Self {
        Self(Arc::new(Mutex::new(Account {
            limits,
            taken: Demand::default(),
        })))
    }

    /// Limits below what is taken refuse further VMs and end none.
    pub fn set_limits(&self, limits: CapacityLimits) {
        lock(&self.0).limits = limits;
    }

    /// Whether all of it is free at this moment; nothing is taken.
    pub fn is_free(&self, demand: &Demand) -> Result<(), LeaseError> {
        lock(&self.0).check(demand)
    }

    pub fn reserve(&self, demand: Demand) -> Result<Reservation, LeaseError> {
        let mut account = lock(&self.0);
        account.check(&demand)?;
        account.add(&demand);
        Ok(self.held(demand))
    }

    /// Counts a VM that runs already, whatever the limits.
    pub fn count(&self, demand: Demand) -> Reservation {
        lock(&self.0).add(&demand);
        self.held(demand)
    }

    pub fn usage(&self) -> Usage {
        let account = lock(&self.0);
        Usage {
            taken: account.taken.clone(),
            limits: account.limits.clone(),
        }
    }

    fn held(&self, demand: Demand) -> Reservation {
        Reservation {
            account: Arc::clone(&self.0),
            demand,
        }
    }
}

/// What a VM holds; given back once, when it drops.
#[derive(Debug)]
pub struct Reservation {
    account: Arc<Mutex<Account>>,
    demand: Demand,
}

impl Reservation {
    /// Takes more, as a plan asks for it; all of it or nothing.
    pub fn extend(&mut self, more: &Demand) -> Result<(), LeaseError> {
        let mut account = lock(&self.account);
        account.check(more)?;
        account.add(more);
        let held = &mut self.demand;
        held.vms += more.vms;
        held.vcpus += more.vcpus;
        held.memory_bytes = held.memory_bytes.saturating_add(more.memory_bytes);
        for (name, amount) in &more.leases {
            *held.leases.entry(name.clone()).or_default() += amount;
        }
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        lock(&self.account).subtract(&self.demand);
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

    /// Holds a port that a VM of an earlier daemon has; `None` where it is held already.
    pub fn hold(&self, port: u16) -> Option<PortLease> {
        let number = u32::from(port);
        lock(&self.pool.taken).insert(number).then(|| {
            PortLease(PoolLease {
                number,
                taken: Arc::clone(&self.pool.taken),
            })
        })
    }

    pub fn range(&self) -> &RangeInclusive<u16> {
        &self.range
    }

    /// How many ports of the range no VM of this daemon has, and are none of `busy`.
    pub fn free(&self, busy: &BTreeSet<u16>) -> usize {
        let taken = lock(&self.pool.taken);
        let is_free = |port: &u16| {
            let number = u32::from(*port);
            !taken.contains(&number) && !self.reserved.contains(&number) && !busy.contains(port)
        };
        self.range.clone().filter(is_free).count()
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

    fn demand(vcpus: u64, memory_bytes: u64, leases: &[(&str, u64)]) -> Demand {
        Demand {
            vms: 1,
            vcpus,
            memory_bytes,
            leases: leases
                .iter()
                .map(|(name, amount)| ((*name).to_owned(), *amount))
                .collect(),
        }
    }

    #[test]
    fn what_a_vm_takes_is_taken_as_a_whole_and_given_back_once() {
        let capacity = Capacity::new(CapacityLimits {
            vms: 2,
            vcpus: 8,
            memory_bytes: 10 << 30,
            leases: [("slot".to_owned(), 1)].into(),
        });
        let first = capacity
            .reserve(demand(4, 6 << 30, &[("slot", 1)]))
            .unwrap();
        let refusals = [
            (
                demand(5, 1, &[]),
                "5 vCPUs are wanted, and 4 of the host's 8 are free",
            ),
            (
                demand(1, 5 << 30, &[]),
                "5120 MiB of memory is wanted, and 4096 MiB of 10240 MiB for VMs is free",
            ),
            (
                demand(1, 1, &[("slot", 1)]),
                "1 of \"slot\" is wanted, and 0 of 1 is free",
            ),
            (
                demand(1, 1, &[("unheard-of", 1)]),
                "1 of \"unheard-of\" is wanted, and 0 of 0 is free",
            ),
        ];
        let before = capacity.usage();
        for (demand, words) in refusals {
            assert_eq!(capacity.reserve(demand).unwrap_err().to_string(), words);
        }
        assert_eq!(capacity.usage(), before, "a refusal takes nothing");
        let mut second = capacity.reserve(demand(1, 1 << 30, &[])).unwrap();
        let words = capacity.reserve(demand(1, 1, &[])).unwrap_err().to_string();
        assert_eq!(words, "all 2 VM slots are taken");
        let more = Demand {
            memory_bytes: 4 << 30,
            ..Demand::default()
        };
        second.extend(&more).unwrap_err();
        drop(first);
        second.extend(&more).unwrap();
        assert_eq!(capacity.usage().taken.memory_bytes, 5 << 30);
        drop(second);
        assert_eq!(capacity.usage().taken.memory_bytes, 0);
        assert_eq!(capacity.usage().taken.vms, 0);
    }

    #[test]
    fn no_limit_means_none_and_what_runs_already_is_counted_anyway() {
        let capacity = Capacity::new(CapacityLimits::default());
        let _many: Vec<_> = (0..100)
            .map(|_| capacity.reserve(demand(64, 1 << 40, &[])).unwrap())
            .collect();
        let capacity = Capacity::new(CapacityLimits {
            vms: 1,
            ..CapacityLimits::default()
        });
        let running = capacity.count(demand(1, 1, &[]));
        let _lost = capacity.count(demand(1, 1, &[]));
        capacity.reserve(demand(1, 1, &[])).unwrap_err();
        drop(running);
        capacity.reserve(demand(1, 1, &[])).unwrap_err();
        capacity.set_limits(CapacityLimits {
            vms: 2,
            ..CapacityLimits::default()
        });
        capacity.reserve(demand(1, 1, &[])).unwrap();
    }

    #[test]
    fn ports_leave_out_the_daemons_own_and_busy_ones() {
        let ports = Ports::new(6100..=6103, [6101]);
        assert_eq!(ports.free(&[6102, 7000].into()), 2);
        let first = ports.take(&BTreeSet::new()).unwrap();
        assert_eq!(first.port(), 6100);
        assert_eq!(ports.free(&BTreeSet::new()), 2);
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

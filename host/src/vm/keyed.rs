//! Creates that have an idempotency key: which VM each key belongs to, and how its creation ended
//! for those who ask while it is under way.
//!
//! A key is its client's own, and known as long as its VM is there. A creation that failed is
//! forgotten: whoever sends it again has it tried again.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::error::CreateError;
use super::status::VmStatus;
use crate::spec::VmId;
use crate::spec::request::IdempotencyWish;
use crate::store::IdempotencyRecord;

/// None while it is under way.
type Outcome = Option<Result<(), Arc<CreateError>>>;

#[derive(Debug)]
struct KeyedVm {
    id: VmId,
    record: IdempotencyRecord,
    outcome: watch::Receiver<Outcome>,
    going: Going,
}

/// Whether somebody asked for its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Going {
    Nowhere,
    Away,
}

/// By client and key.
#[derive(Debug, Default)]
pub(super) struct KeyedCreates(BTreeMap<(String, String), KeyedVm>);

impl KeyedCreates {
    /// The creation that `wish` is the same as; none: it is a new one.
    pub(super) fn find(
        &self,
        client: &str,
        wish: &IdempotencyWish,
    ) -> Result<Option<Created>, CreateError> {
        let place = (client.to_owned(), wish.key.clone());
        let Some(found) = self.0.get(&place) else {
            return Ok(None);
        };
        if !found.record.is_for(wish) {
            return Err(CreateError::KeyReused {
                key: wish.key.clone(),
                id: found.id,
            });
        }
        Ok(Some(Created {
            id: found.id,
            outcome: found.outcome.clone(),
        }))
    }

    pub(super) fn begin(
        &mut self,
        client: &str,
        record: &IdempotencyRecord,
        id: VmId,
    ) -> (Creation, Created) {
        let (sender, outcome) = watch::channel(None);
        let created = Created {
            id,
            outcome: outcome.clone(),
        };
        self.insert(client, record, id, outcome);
        (Creation(sender), created)
    }

    /// A VM that an earlier daemon made. One that this daemon makes is known already.
    pub(super) fn belongs(&mut self, client: &str, record: &IdempotencyRecord, id: VmId) {
        let place = (client.to_owned(), record.key.clone());
        if self.0.get(&place).is_none_or(|known| known.id != id) {
            let (_, outcome) = watch::channel(Some(Ok(())));
            self.insert(client, record, id, outcome);
        }
    }

    fn insert(
        &mut self,
        client: &str,
        record: &IdempotencyRecord,
        id: VmId,
        outcome: watch::Receiver<Outcome>,
    ) {
        let keyed = KeyedVm {
            id,
            record: record.clone(),
            outcome,
            going: Going::Nowhere,
        };
        self.0
            .insert((client.to_owned(), record.key.clone()), keyed);
    }

    pub(super) fn set_going(&mut self, id: VmId, going: Going) {
        let mut keyed = self.0.values_mut();
        if let Some(keyed) = keyed.find(|keyed| keyed.id == id) {
            keyed.going = going;
        }
    }

    pub(super) fn is_going(&self, id: VmId) -> bool {
        let mut keyed = self.0.values();
        keyed.any(|keyed| keyed.id == id && keyed.going == Going::Away)
    }

    pub(super) fn forget(&mut self, id: VmId) {
        self.0.retain(|_, keyed| keyed.id != id);
    }
}

/// A creation under way. One that is dropped failed.
#[derive(Debug)]
pub(super) struct Creation(watch::Sender<Outcome>);

impl Creation {
    pub(super) fn end(self, outcome: Result<Arc<VmStatus>, CreateError>) {
        self.0.send_replace(Some(match outcome {
            Ok(_) => Ok(()),
            Err(error) => Err(Arc::new(error)),
        }));
    }
}

/// A creation that somebody waits for.
#[derive(Debug)]
pub(super) struct Created {
    id: VmId,
    outcome: watch::Receiver<Outcome>,
}

impl Created {
    /// The VM, when it runs.
    pub(super) async fn outcome(mut self) -> Result<VmId, CreateError> {
        let ended = self.outcome.wait_for(Option::is_some).await;
        match ended.as_deref() {
            Ok(Some(Ok(()))) => Ok(self.id),
            Ok(Some(Err(error))) => Err(CreateError::Same(Arc::clone(error))),
            Ok(None) | Err(_) => Err(CreateError::Internal),
        }
    }
}

//! What the host says beside its answers: access that it refused to a backend, and log lines that it
//! dropped. Both are events of the host, and nothing of it had to be opened for them.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use casemate_host::backend::REFUSED_ACCESS;
use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry;

#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// What was asked for and not given.
    pub(crate) refused: Vec<String>,
    /// Facts that were asked for in a form that no host answers.
    pub(crate) questions: Vec<String>,
    /// Log lines that were dropped.
    pub(crate) dropped: u64,
}

/// Sees the events of this thread while it lives.
pub(crate) struct Witness {
    seen: Arc<Mutex<Seen>>,
    _guard: DefaultGuard,
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Witness")
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

impl Witness {
    pub(crate) fn begin() -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let layer = Watch(Arc::clone(&seen));
        let guard = tracing::subscriber::set_default(registry().with(layer));
        Self {
            seen,
            _guard: guard,
        }
    }

    /// What was seen since it was last asked.
    pub(crate) fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Watch(Arc<Mutex<Seen>>);

impl<S: Subscriber> Layer<S> for Watch {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if event.metadata().target() == REFUSED_ACCESS {
            seen.refused.extend(fields.asked);
            seen.questions.extend(fields.question);
        }
        seen.dropped += fields.dropped;
    }
}

#[derive(Default)]
struct Fields {
    asked: Option<String>,
    question: Option<String>,
    dropped: u64,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "asked" => self.asked = Some(value.to_owned()),
            "question" => self.question = Some(value.to_owned()),
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "dropped" {
            self.dropped = value;
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn fmt::Debug) {}
}

//! Errors that the edge itself finds: ids and names that are none, and answers that it cannot make.

use casemate_catalogue::ErrorId;

use crate::vm::catalogued::Catalogued;

/// Longest part of a wrong id or name that is repeated.
const MAX_WANTED: usize = 64;

#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("there is no VM {wanted:?}")]
    NoSuchVm { wanted: String },
    #[error("there is no backend {wanted:?}")]
    NoSuchBackend { wanted: String },
    #[error(
        "nothing is measured for this VM: backend {backend:?} computes no launch measurement, so there is no policy"
    )]
    NoMeasurement { backend: String },
    #[error(
        "the VM was started by a casemated that measured nothing: it is measured when it starts again"
    )]
    NotMeasuredThen,
    #[error("format: {number} is no format of measurements")]
    MeasurementFormat { number: i32 },
    #[error("the plan is no JSON")]
    PlanJson(#[source] serde_json::Error),
}

impl Refusal {
    /// For what may be no id at all: there can be no such VM.
    pub(super) fn no_such_vm(wanted: &str) -> Self {
        Self::NoSuchVm {
            wanted: brief(wanted),
        }
    }

    pub(super) fn no_such_backend(wanted: &str) -> Self {
        Self::NoSuchBackend {
            wanted: brief(wanted),
        }
    }
}

fn brief(wanted: &str) -> String {
    crate::spec::printable_start(wanted, MAX_WANTED)
}

impl Catalogued for Refusal {
    fn id(&self) -> ErrorId {
        match self {
            Self::NoSuchVm { .. } => ErrorId::NoSuchVm,
            Self::NoSuchBackend { .. } => ErrorId::NoSuchBackend,
            Self::NoMeasurement { .. } | Self::NotMeasuredThen => ErrorId::NoMeasurement,
            Self::MeasurementFormat { .. } => ErrorId::RequestField,
            Self::PlanJson(_) => ErrorId::Internal,
        }
    }

    fn subject(&self) -> Option<String> {
        match self {
            Self::NoSuchVm { wanted } | Self::NoSuchBackend { wanted } => Some(wanted.clone()),
            Self::NoMeasurement { backend } => Some(backend.clone()),
            Self::MeasurementFormat { .. } => Some("format".to_owned()),
            Self::NotMeasuredThen | Self::PlanJson(_) => None,
        }
    }
}

//! Facts of this host for backends: from `probe` and from the installed QEMU.

use std::sync::Arc;

use crate::probe;
use crate::qemu::schema::{ProbeError, Qemu, TypeQuestion};
use crate::spec::facts::{
    AnswerFuture, FactAnswer, FactFailure, FactQuestion, FactSource, FactValue,
};

#[derive(Debug)]
pub struct HostFacts {
    qemu: Arc<Qemu>,
}

impl HostFacts {
    pub fn new(qemu: Arc<Qemu>) -> Self {
        Self { qemu }
    }

    async fn look(&self, question: &FactQuestion) -> FactAnswer {
        match question {
            FactQuestion::QemuVersion => {
                let info = self.qemu.info().await.map_err(failed)?;
                Ok(FactValue::Text(info.version.clone()))
            }
            FactQuestion::QemuMachine(alias) => {
                let info = self.qemu.info().await.map_err(failed)?;
                let name = info.machine(alias).ok_or(FactFailure::Absent)?;
                Ok(FactValue::Text(name.to_owned()))
            }
            FactQuestion::QemuType(name) => {
                let question = TypeQuestion::Qom(name.clone());
                let properties = self.qemu.properties(question).await.map_err(failed)?;
                let properties = properties.ok_or(FactFailure::Absent)?;
                Ok(FactValue::Names(properties.keys().cloned().collect()))
            }
            FactQuestion::QmpQuery(command) => match self.qemu.query(command).await {
                Ok(Ok(text)) => Ok(FactValue::Text(text)),
                Ok(Err(reason)) => Err(FactFailure::Failed(reason)),
                Err(error) => Err(failed(error)),
            },
            question => {
                let question = question.clone();
                tokio::task::spawn_blocking(move || look_at_host(&question))
                    .await
                    .unwrap_or_else(|_| Err(FactFailure::Failed("the probe failed".to_owned())))
            }
        }
    }
}

fn failed(error: ProbeError) -> FactFailure {
    FactFailure::Failed(crate::backend::catalog::chain(&error))
}

fn look_at_host(question: &FactQuestion) -> FactAnswer {
    match question {
        FactQuestion::Cpuid { leaf, subleaf } => probe::cpuid(*leaf, *subleaf),
        FactQuestion::KvmCapability(number) => probe::kvm::capability(*number),
        FactQuestion::KvmDeviceAttribute { group, attribute } => {
            probe::kvm::device_attribute(*group, *attribute)
        }
        FactQuestion::ReadText(path) => probe::read_text(path),
        FactQuestion::Device(path) => probe::device(path),
        FactQuestion::Socket(path) => probe::socket(path),
        FactQuestion::QemuVersion
        | FactQuestion::QemuMachine(_)
        | FactQuestion::QemuType(_)
        | FactQuestion::QmpQuery(_) => {
            Err(FactFailure::Failed("not a question to the host".to_owned()))
        }
    }
}

impl FactSource for HostFacts {
    fn answer<'a>(&'a self, question: &'a FactQuestion) -> AnswerFuture<'a> {
        Box::pin(self.look(question))
    }
}

//! What a reload replaces as a whole. Each call takes one snapshot and keeps to it, so that no VM is
//! made from two configs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::attestation::AttestationConfig;
use super::config::{DiskConfig, NetworkConfig, QemuConfig, VmDefaults};
use super::error::CreateError;
use super::facts::HostFacts;
use super::images::ImagesConfig;
use super::{files, planning};
use crate::backend::catalog::{ChooseError, Verdict, chain};
use crate::backend::{Catalog, LoadedBackend, Protection};
use crate::config::OnShutdown;
use crate::config::explain::Row;
use crate::lease::Ports;
use crate::qemu::schema::Qemu;
use crate::spec::files::FileWishes;
use crate::spec::plan::{Finding, Severity};
use crate::spec::request::BackendWish;

#[derive(Debug)]
pub struct Live {
    pub catalog: Catalog,
    pub qemu: Arc<Qemu>,
    pub qemu_config: QemuConfig,
    pub network: NetworkConfig,
    pub disk: DiskConfig,
    pub images: ImagesConfig,
    pub attestation: AttestationConfig,
    /// Of streams over HTTP.
    pub stream_time: Duration,
    pub shutdown: OnShutdown,
    pub shutdown_time: Duration,
    pub defaults: VmDefaults,
    /// `None`: the kernel chooses.
    pub ports: Option<Ports>,
    /// Every value in effect, with its source.
    pub rows: Vec<Row>,
}

impl Live {
    /// The backend that a VM gets: the one it has; else the one it names, else the default, else
    /// the one confidential backend whose checks pass on this host, and in place of these the canary
    /// that its labels ask for.
    pub async fn choose(
        &self,
        wish: &BackendWish,
        labels: &BTreeMap<String, String>,
    ) -> Result<Arc<LoadedBackend>, ChooseError> {
        let name = match (wish, self.catalog.default_name()) {
            (BackendWish::Kept(name), _) => return self.catalog.get(name),
            (BackendWish::Named(name), _) => name,
            (BackendWish::Any, Some(name)) => name,
            (BackendWish::Any, None) => {
                let chosen = self.choose_by_checks().await?;
                return match self.catalog.routed(chosen.name(), labels) {
                    name if name == chosen.name() => Ok(chosen),
                    canary => self.catalog.get(canary),
                };
            }
        };
        self.catalog.get(self.catalog.routed(name, labels))
    }

    async fn choose_by_checks(&self) -> Result<Arc<LoadedBackend>, ChooseError> {
        let mut verdicts = Vec::new();
        let mut fit = Vec::new();
        for entry in self.catalog.entries() {
            let name = entry.config.name.clone();
            let reason = match &entry.state {
                Err(error) => Some(format!("not in service: {}", chain(error))),
                Ok(_) if entry.config.canary.is_some() => {
                    Some("is a canary, and chosen by labels alone".to_owned())
                }
                Ok(backend) if backend.info().protection == Protection::None => {
                    Some("protects no guests, and is never chosen by itself".to_owned())
                }
                Ok(backend) => {
                    let reason = self.fails(backend).await;
                    if reason.is_none() {
                        fit.push(Arc::clone(backend));
                    }
                    reason
                }
            };
            verdicts.push(Verdict { name, reason });
        }
        match (fit.pop(), fit.is_empty()) {
            (Some(backend), true) => Ok(backend),
            (Some(_), false) => Err(ChooseError::SeveralFit { verdicts }),
            (None, _) => Err(ChooseError::NoneFits { verdicts }),
        }
    }

    /// Whether VMs of this backend can be started here: what it finds, and what the host knows
    /// better of its files.
    pub async fn check(&self, backend: &LoadedBackend) -> Result<Vec<Finding>, CreateError> {
        let context = planning::context(
            self,
            backend,
            &BTreeMap::new(),
            None,
            &FileWishes::default(),
        )?;
        let facts = Arc::new(HostFacts::new(Arc::clone(&self.qemu)));
        let findings = backend.check(&context, facts).await;
        let findings = findings.map_err(CreateError::Backend)?;
        Ok(files::with_missing(findings, &context.files))
    }

    /// Why VMs of this backend cannot be started here; none: its checks pass.
    async fn fails(&self, backend: &LoadedBackend) -> Option<String> {
        match self.check(backend).await {
            Err(error) => Some(chain(&error)),
            Ok(findings) => findings
                .iter()
                .find(|finding| finding.severity == Severity::Fail)
                .map(|finding| format!("{} fails: {}", finding.id, finding.detail)),
        }
    }

    /// Where a script that a person starts forwards the agent's port.
    pub fn standalone_forward(&self) -> (SocketAddr, u16) {
        let first = self
            .network
            .ports
            .as_ref()
            .map_or(0, |range| *range.start());
        (
            SocketAddr::new(self.network.host_address.into(), first),
            self.network.agent_port,
        )
    }
}

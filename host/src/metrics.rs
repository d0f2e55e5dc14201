//! Metrics, registered once. No label holds a VM's id: their number is bounded by configuration.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::{
    Encoder as _, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Buckets of a create: QEMU alone takes 100 ms, a large confidential guest minutes.
const CREATE_BUCKETS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];
/// Buckets of QEMU's own start: most take tens of milliseconds, a busy machine seconds.
const QEMU_START_BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
/// Buckets of a backend call: microseconds to the deadline.
const CALL_BUCKETS: [f64; 9] = [
    0.000_05, 0.000_1, 0.000_5, 0.001, 0.005, 0.02, 0.1, 1.0, 5.0,
];

#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Held from the count of VMs to the end of the rendering: two scrapes must not mix.
    rendering: Mutex<()>,
    vms: IntGaugeVec,
    vm_limit: IntGauge,
    tasks: IntGauge,
    create_seconds: HistogramVec,
    qemu_start_seconds: Histogram,
    backend_call_seconds: HistogramVec,
    backend_faults: IntCounterVec,
    config_reloads: IntCounterVec,
    backend_reloads: IntCounterVec,
    backend_info: IntGaugeVec,
    exits: IntCounterVec,
    adopted: IntCounterVec,
    tls_reloads: IntCounterVec,
    api_refusals: IntCounterVec,
}

impl Metrics {
    /// `instance` names this daemon.
    pub fn new(version: &str, instance: &str) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let vms = IntGaugeVec::new(Opts::new("casemate_vms", "VMs by state."), &["state"])?;
        let vm_limit = IntGauge::new("casemate_vm_limit", "Limit of running VMs; 0 means none.")?;
        let tasks = IntGauge::new(
            "casemate_tasks",
            "Tasks of the daemon's runtime: a few of its own, and some for each VM and each call.",
        )?;
        let create_seconds = HistogramVec::new(
            HistogramOpts::new("casemate_create_seconds", "Time of a CreateVm, by outcome.")
                .buckets(CREATE_BUCKETS.into()),
            &["outcome"],
        )?;
        let qemu_start_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "casemate_qemu_start_seconds",
                "Time from QEMU's start until its monitor answers, which is part of a CreateVm.",
            )
            .buckets(QEMU_START_BUCKETS.into()),
        )?;
        let backend_call_seconds = HistogramVec::new(
            HistogramOpts::new(
                "casemate_backend_call_seconds",
                "Time of a backend's plan or measure call that was answered.",
            )
            .buckets(CALL_BUCKETS.into()),
            &["backend"],
        )?;
        let backend_faults = IntCounterVec::new(
            Opts::new(
                "casemate_backend_faults_total",
                "Faults of backends, by kind.",
            ),
            &["backend", "kind"],
        )?;
        let build_info = GaugeVec::new(
            Opts::new("casemate_build_info", "Constant 1."),
            &["version", "instance"],
        )?;
        build_info.with_label_values(&[version, instance]).set(1.0);
        let config_reloads = IntCounterVec::new(
            Opts::new(
                "casemate_config_reloads_total",
                "Reloads of the config, by outcome (applied, refused).",
            ),
            &["outcome"],
        )?;
        let backend_reloads = IntCounterVec::new(
            Opts::new(
                "casemate_backend_reloads_total",
                "What reloads did to each backend (added, replaced, reconfigured, unchanged, failed, removed, refused).",
            ),
            &["backend", "change"],
        )?;
        let backend_info = IntGaugeVec::new(
            Opts::new(
                "casemate_backend_info",
                "1 for each backend in service, with its technology, its own version and the SHA-256 of its component.",
            ),
            &["backend", "tee", "version", "sha256"],
        )?;
        let exits = IntCounterVec::new(
            Opts::new(
                "casemate_vm_exits_total",
                "QEMUs that ended by themselves, by QEMU's reason, or by exit code and signal where it gave none.",
            ),
            &["reason"],
        )?;
        let adopted = IntCounterVec::new(
            Opts::new(
                "casemate_vms_found_total",
                "VMs of an earlier daemon, by what became of them (adopted, unresponsive, ended, unwound, down, lost).",
            ),
            &["outcome"],
        )?;
        let tls_reloads = IntCounterVec::new(
            Opts::new(
                "casemate_tls_reloads_total",
                "Files of TLS that were read again, by listener and outcome (applied, refused).",
            ),
            &["listener", "outcome"],
        )?;
        let api_refusals = IntCounterVec::new(
            Opts::new(
                "casemate_api_refusals_total",
                "Calls that were refused for who made them or how often, by the error's id.",
            ),
            &["reason"],
        )?;
        registry.register(Box::new(tls_reloads.clone()))?;
        registry.register(Box::new(api_refusals.clone()))?;
        registry.register(Box::new(exits.clone()))?;
        registry.register(Box::new(adopted.clone()))?;
        registry.register(Box::new(vms.clone()))?;
        registry.register(Box::new(vm_limit.clone()))?;
        registry.register(Box::new(tasks.clone()))?;
        registry.register(Box::new(create_seconds.clone()))?;
        registry.register(Box::new(qemu_start_seconds.clone()))?;
        registry.register(Box::new(backend_call_seconds.clone()))?;
        registry.register(Box::new(backend_faults.clone()))?;
        registry.register(Box::new(config_reloads.clone()))?;
        registry.register(Box::new(backend_reloads.clone()))?;
        registry.register(Box::new(backend_info.clone()))?;
        registry.register(Box::new(build_info))?;
        Ok(Self {
            registry,
            rendering: Mutex::new(()),
            vms,
            vm_limit,
            tasks,
            create_seconds,
            qemu_start_seconds,
            backend_call_seconds,
            backend_faults,
            config_reloads,
            backend_reloads,
            backend_info,
            exits,
            adopted,
            tls_reloads,
            api_refusals,
        })
    }

    pub fn set_vm_limit(&self, limit: u64) {
        self.vm_limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    pub fn created(&self, outcome: &str, elapsed: Duration) {
        self.create_seconds
            .with_label_values(&[outcome])
            .observe(elapsed.as_secs_f64());
    }

    pub fn qemu_started(&self, elapsed: Duration) {
        self.qemu_start_seconds.observe(elapsed.as_secs_f64());
    }

    pub fn backend_called(&self, backend: &str, elapsed: Duration) {
        self.backend_call_seconds
            .with_label_values(&[backend])
            .observe(elapsed.as_secs_f64());
    }

    pub fn backend_fault(&self, backend: &str, kind: &str) {
        self.backend_faults
            .with_label_values(&[backend, kind])
            .inc();
    }

    /// A QEMU that nobody told to end. `reason` is one of a fixed set.
    pub fn exited(&self, reason: &'static str) {
        self.exits.with_label_values(&[reason]).inc();
    }

    pub fn found(&self, outcome: &str) {
        self.adopted.with_label_values(&[outcome]).inc();
    }

    pub fn config_reloaded(&self, outcome: &str) {
        self.config_reloads.with_label_values(&[outcome]).inc();
    }

    /// `change` is one of a fixed set.
    pub fn backend_reloaded(&self, backend: &str, change: &str) {
        self.backend_reloads
            .with_label_values(&[backend, change])
            .inc();
    }

    pub fn tls_reloaded(&self, listener: &str, outcome: &str) {
        self.tls_reloads
            .with_label_values(&[listener, outcome])
            .inc();
    }

    /// `reason` is the id of the error.
    pub fn refused(&self, reason: &'static str) {
        self.api_refusals.with_label_values(&[reason]).inc();
    }

    /// The text format, with VMs and backends as they are now: for each VM its state, for each
    /// backend in service its name, technology, version and digest.
    pub fn render<'a>(
        &self,
        states: impl IntoIterator<Item = &'a str>,
        backends: impl IntoIterator<Item = [&'a str; 4]>,
    ) -> String {
        let _rendering = self
            .rendering
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.vms.reset();
        for state in states {
            self.vms.with_label_values(&[state]).inc();
        }
        self.backend_info.reset();
        for labels in backends {
            self.backend_info.with_label_values(&labels).set(1);
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let tasks = runtime.metrics().num_alive_tasks();
            self.tasks.set(i64::try_from(tasks).unwrap_or(i64::MAX));
        }
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be rendered");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

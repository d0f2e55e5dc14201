//! `plan` of one backend, as the component that the host loads and as native code.
//!
//! The request has all that a request can have for this backend, and the facts are answered from
//! fixed values of the size that a real QEMU's have. What the component costs beside the native
//! code is a store, an instance, the copies in and out, and the host's checks of the answer.

use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use casemate_backend::bindings::casemate::tee::types as contract;
use casemate_backend::facts::QemuFacts;
use casemate_host::backend::settings::SettingValue;
use casemate_host::backend::{BackendConfig, BackendEngine, Limits, LoadedBackend};
use casemate_host::spec::Origin;
use casemate_host::spec::facts::{FactQuestion, FactRecord, FactValue};
use casemate_host::spec::plan::{Property, Value};
use casemate_host::spec::request::{
    Accelerator, Boot, Choice, HostContext, HostDevice, LaunchRequest, RequestFile, Setting,
};
use casemate_plain_kvm::facts::Facts;

use crate::report::Figure;
use crate::sample::{Samples, microseconds, timed};
use crate::site::Site;

const WASM: &str = "plan-wasm";
const NATIVE: &str = "plan-native";
const RATIO: &str = "plan-wasm-to-native";
pub(crate) const NAMES: &[&str] = &[WASM, NATIVE, RATIO];

const BACKEND: &str = "plain-kvm";
/// Microseconds. The budget is that of a full SNP request, whose backend does more; plain KVM has
/// to stay below it with room to spare.
const BUDGET: f64 = 60.0;
const WARM_UP: usize = 500;
const ROUNDS: usize = 10_000;
/// Properties that QEMU 7.2 and 10.0 list for the types that are asked for, about ten letters each.
const CPU_PROPERTIES: usize = 440;
const MACHINE_PROPERTIES: usize = 50;

pub(crate) async fn measure(site: &Site) -> Result<Vec<Figure>> {
    let backend = load(site).await?;
    let request = request(site, &backend)?;
    let facts = Arc::new(fixed_facts());

    let mut wasm = Samples::default();
    for round in 0..WARM_UP + ROUNDS {
        let source = Arc::clone(&facts);
        let (time, outcome) = timed(backend.plan(&request, source)).await;
        let outcome = outcome.context("the component does not plan")?;
        ensure!(
            outcome.facts.len() == facts.len(),
            "the component asks for other facts than those that are fixed here"
        );
        black_box(outcome);
        if round >= WARM_UP {
            wasm.add(microseconds(time));
        }
        // So that a stop is heard: nothing here waits for anything.
        tokio::task::yield_now().await;
    }

    let request = in_the_contracts_words(&request)?;
    let facts = native_facts();
    let mut native = Samples::default();
    for round in 0..WARM_UP + ROUNDS {
        let (time, plan) =
            timed(async { casemate_plain_kvm::plan::plan(black_box(&request), black_box(&facts)) })
                .await;
        let plan = plan.map_err(|error| anyhow::anyhow!("no native plan: {}", error.message))?;
        black_box(plan);
        if round >= WARM_UP {
            native.add(microseconds(time));
        }
    }
    Ok(vec![
        Figure::new(WASM, "us", &wasm).with_budget(BUDGET),
        Figure::new(NATIVE, "us", &native),
        Figure::ratio(RATIO, &wasm, &native),
    ])
}

async fn load(site: &Site) -> Result<LoadedBackend> {
    let config: BackendConfig = site
        .packaged_backend(BACKEND)?
        .try_into()
        .context("the packaged backend is not of the config's form")?;
    let engine = BackendEngine::new(Limits::default())?;
    LoadedBackend::load(&engine, &config, &[])
        .await
        .with_context(|| format!("{BACKEND} does not load"))
}

fn request(site: &Site, backend: &LoadedBackend) -> Result<LaunchRequest> {
    let mut settings = Vec::new();
    for (input, origin) in backend.settings_for(&std::collections::BTreeMap::new())? {
        if let SettingValue::Plain(value) = input.value {
            settings.push(Setting {
                key: input.key,
                value,
                origin,
            });
        }
    }
    let kernel = Arc::new(std::fs::File::open(&site.kernel).context("cannot open the kernel")?);
    // Plain KVM reads no file, so one descriptor serves for all of them.
    let files = ["kernel", "initrd", "firmware-code", "firmware-vars"];
    let files = (1..).zip(files).map(|(id, role)| RequestFile {
        id,
        role: role.to_owned(),
        path: site.kernel.clone(),
        size: 4 << 20,
        origin: Origin::Operator,
        handle: Ok(Arc::clone(&kernel)),
    });
    let property = |path: &str, value: Value| Property {
        path: path.to_owned(),
        value,
    };
    let text = |text: &str| Value::Text(text.to_owned());
    let device = |kind: &str, id: &str, properties: Vec<Property>| HostDevice {
        kind: kind.to_owned(),
        id: id.to_owned(),
        properties,
    };
    let choice = |value: &str| {
        Some(Choice {
            value: value.to_owned(),
            origin: Origin::Request,
        })
    };
    Ok(LaunchRequest {
        identity: None,
        data_disks: Vec::new(),
        host: HostContext {
            architecture: "x86_64".to_owned(),
            accelerator: Accelerator::Kvm,
            settings,
            files: files.collect(),
        },
        vcpus: 4,
        memory_bytes: 2048 << 20,
        boot: Boot::Kernel,
        machine: choice("q35"),
        cpu: choice("EPYC"),
        kernel_cmdline: "quiet console=null agent.aa_kbs_params=cc_kbc::http://10.0.2.2:8080"
            .to_owned(),
        devices: vec![
            device(
                "net",
                "vmnic",
                vec![
                    property("addr", text("0x2")),
                    property("disable-legacy", text("on")),
                    property("iommu_platform", Value::Boolean(true)),
                    property("romfile", text("")),
                ],
            ),
            device("share-9p", "env_share", Vec::new()),
            device("share-9p", "certs_share", Vec::new()),
        ],
    })
}

fn names(count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("prop-{number:05}"))
        .collect()
}

/// In the place of a host with KVM and QEMU 10.0.
fn fixed_facts() -> FactRecord {
    let mut record = FactRecord::default();
    for (question, answer) in [
        (
            FactQuestion::Device("/dev/kvm".to_owned()),
            FactValue::Present,
        ),
        (
            FactQuestion::QemuVersion,
            FactValue::Text("10.0.2".to_owned()),
        ),
        (
            FactQuestion::QemuMachine("q35".to_owned()),
            FactValue::Text("pc-q35-10.0".to_owned()),
        ),
        (
            FactQuestion::QemuType("pc-q35-10.0-machine".to_owned()),
            FactValue::Names(names(MACHINE_PROPERTIES)),
        ),
        (
            FactQuestion::QemuType("EPYC-x86_64-cpu".to_owned()),
            FactValue::Names(names(CPU_PROPERTIES)),
        ),
    ] {
        record.insert(question, Ok(answer));
    }
    record
}

/// The same, as the backend has them once it has asked.
fn native_facts() -> Facts {
    Facts {
        kvm_device: Ok(()),
        qemu: QemuFacts {
            version: Ok("10.0.2".to_owned()),
            machine: Ok("pc-q35-10.0".to_owned()),
            machine_type: Ok(()),
            cpu_model: Ok(()),
        },
    }
}

fn in_the_contracts_words(request: &LaunchRequest) -> Result<contract::LaunchRequest> {
    let settings = request.host.settings.iter().map(|setting| {
        Ok(contract::Setting {
            key: setting.key.clone(),
            value: value(&setting.value)?,
            origin: origin(setting.origin),
        })
    });
    let files = request.host.files.iter().map(|file| contract::HostFile {
        id: file.id,
        role: file.role.clone(),
        label: file.label(),
        size: file.size,
        origin: origin(file.origin),
    });
    let devices = request.devices.iter().map(|device| {
        let properties = device.properties.iter().map(|property| {
            Ok(contract::Property {
                path: property.path.clone(),
                value: value(&property.value)?,
            })
        });
        Ok(contract::HostDevice {
            kind: device.kind.clone(),
            id: device.id.clone(),
            properties: properties.collect::<Result<_>>()?,
        })
    });
    let choice = |choice: &Option<Choice>| {
        choice.as_ref().map(|choice| contract::Choice {
            value: choice.value.clone(),
            origin: origin(choice.origin),
        })
    };
    Ok(contract::LaunchRequest {
        host: contract::HostContext {
            architecture: request.host.architecture.clone(),
            accelerator: request.host.accelerator.as_str().to_owned(),
            settings: settings.collect::<Result<_>>()?,
            files: files.collect(),
        },
        vcpus: request.vcpus,
        memory_bytes: request.memory_bytes,
        boot: request.boot.as_str().to_owned(),
        machine: choice(&request.machine),
        cpu: choice(&request.cpu),
        kernel_cmdline: request.kernel_cmdline.clone(),
        devices: devices.collect::<Result<_>>()?,
        identity: None,
        extras: Vec::new(),
    })
}

fn value(value: &Value) -> Result<contract::Value> {
    Ok(match value {
        Value::Text(text) => contract::Value::Text(text.clone()),
        Value::Integer(number) => contract::Value::Integer(*number),
        Value::Unsigned(number) => contract::Value::Unsigned(*number),
        Value::Boolean(flag) => contract::Value::Boolean(*flag),
        other => bail!("the request has a value of kind {}", other.kind()),
    })
}

fn origin(origin: Origin) -> contract::Origin {
    match origin {
        Origin::BuiltIn => contract::Origin::BuiltIn,
        Origin::Operator => contract::Origin::Operator,
        Origin::Request => contract::Origin::Request,
    }
}

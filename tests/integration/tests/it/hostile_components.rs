//! More than a hundred components that nobody would ship, given to a daemon that serves: made by
//! `wasm-smith`, made of real ones with bytes changed or missing, and made by hand to be costly. The
//! daemon says of each what is wrong or runs it under its limits, and serves all the while.
//!
//! With the scripted QEMU, because what the daemon bears is the subject, not a guest.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use casemate_integration::artifacts;
use casemate_integration::daemon::{Daemon, Setup};
use casemate_proto::v1;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tonic::Code;

/// What each run begins with, so that a failure can be had again.
const SEED: &str = "hostile components 1";
/// Bytes that a generated component is made of.
const RAW_BYTES: usize = 4096;
const GENERATED: usize = 40;
const CHANGED: usize = 60;
const CUT_OFF: usize = 12;
/// A backend's call ends at 5 s; what is beyond that is for a machine that is busy.
const CALL_TIME: Duration = Duration::from_secs(12);
/// The longest that anybody else may wait for an answer.
const OTHERS_TIME: Duration = Duration::from_secs(5);
const RELOADS: usize = 8;
/// What the daemon may have more after the same components were loaded again and again: their bytes
/// alone, kept each time, would be ten times that.
const MAX_GROWTH_KIB: u64 = 8 << 10;

/// Bytes by chance, and the same ones for the same name.
fn bytes(name: &str, count: usize) -> Vec<u8> {
    let block = |number: usize| Sha256::digest(format!("{SEED} {name} {number}"));
    (0..).flat_map(block).take(count).collect()
}

fn number(name: &str, below: usize) -> usize {
    let bytes = bytes(name, 8);
    let number = bytes.iter().fold(0_usize, |number, byte| {
        number.wrapping_mul(256).wrapping_add(usize::from(*byte))
    });
    number % below
}

fn generated(index: usize) -> Vec<u8> {
    let raw = bytes(&format!("generated {index}"), RAW_BYTES);
    let mut raw = arbitrary::Unstructured::new(&raw);
    let component: wasm_smith::Component = raw.arbitrary().expect("enough bytes");
    component.to_bytes()
}

fn real(index: usize) -> Vec<u8> {
    let names = ["plain-kvm", "mirror", "umbra", "gauge"];
    std::fs::read(artifacts::component(names[index % names.len()])).expect("it was built")
}

/// A few bytes are others, most of them in the code, where they change what it does.
fn changed(index: usize) -> Vec<u8> {
    let mut component = real(index);
    for change in 0..=index % 4 {
        let name = format!("changed {index} {change}");
        let place = number(&name, component.len());
        component[place] = bytes(&name, 9)[8];
    }
    component
}

fn cut_off(index: usize) -> Vec<u8> {
    let mut component = real(index);
    component.truncate(number(&format!("cut off {index}"), component.len()));
    component
}

/// Sections of a component (component model, Binary.md).
const MODULE: u8 = 1;
const MODULE_INSTANCES: u8 = 2;
const COMPONENT: u8 = 4;
const COMPONENT_INSTANCES: u8 = 5;

/// Costly by design, each in a way of its own.
struct Costly {
    name: &'static str,
    bytes: Vec<u8>,
    /// What the daemon says of it; none: it is within bounds, and loads.
    refused: Option<&'static str>,
}

/// A module that a real backend has beside its own, in so many instances: it is made for a call, before
/// anything of the backend runs.
fn beside(module: &str, instances: u32) -> Vec<u8> {
    let module = wat::parse_str(module).expect("it is written well");
    grown(MODULE, &module, MODULE_INSTANCES, instances)
}

/// A component that instantiates another some times, which instantiates another as often, …
fn multiplied(innermost: &str, levels: usize, times: usize) -> Vec<u8> {
    let mut text = innermost.to_owned();
    let instances = "(instance (instantiate $inner)) ".repeat(times);
    for _ in 0..levels {
        let inner = text.replacen("(component", "(component $inner", 1);
        text = format!("(component {inner} {instances})");
    }
    another(&text)
}

/// A component that a real backend has beside its own.
fn another(text: &str) -> Vec<u8> {
    let component = wat::parse_str(text).expect("it is written well");
    grown(COMPONENT, &component, COMPONENT_INSTANCES, 1)
}

/// What is instantiated comes after the component that does it, as what that imports.
fn passed_on(kind: &str) -> Vec<u8> {
    let (instance, content) = match kind {
        "core module" => ("core instance", "(table 90 funcref)"),
        _ => ("instance", ""),
    };
    let instances = format!("({instance} (instantiate $m)) ").repeat(100);
    another(&format!(
        "(component
           (component $c (import \"m\" ({kind} $m)) {instances})
           ({kind} $m {content})
           (instance (instantiate $c (with \"m\" ({kind} $m)))))"
    ))
}

/// `mirror` with a section that defines a module or a component, and one that instantiates it.
fn grown(defines: u8, content: &[u8], instantiates: u8, count: u32) -> Vec<u8> {
    let mut bytes = std::fs::read(artifacts::component("mirror")).expect("it was built");
    let index = items(&bytes, defines);
    let mut instances = leb(count);
    for _ in 0..count {
        instances.push(0);
        instances.extend(leb(index));
        instances.extend(leb(0));
    }
    for (id, content) in [(defines, content), (instantiates, &instances)] {
        bytes.push(id);
        bytes.extend(leb(u32::try_from(content.len()).expect("it is small")));
        bytes.extend(content);
    }
    bytes
}

/// Modules or components that it has: the index of the next.
fn items(bytes: &[u8], section: u8) -> u32 {
    use wasmparser::{Parser, Payload};
    let mut depth = 0;
    let mut count = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.expect("it is valid") {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ModuleSection { .. } if depth == 1 && section == MODULE => count += 1,
            Payload::ComponentSection { .. } if depth == 1 && section == COMPONENT => count += 1,
            _ => {}
        }
    }
    count
}

fn leb(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn by_hand() -> Vec<Costly> {
    let body = |count: usize| {
        let adds = "(i32.add (i32.const 1)) ".repeat(count);
        format!("(module (func (result i32) (i32.const 0) {adds}))")
    };
    let functions = "(func (result i32) (i32.const 7)) ".repeat(60_000);
    let globals = "(global i32 (i32.const 0)) ".repeat(100_000);
    let memory = Some("it wanted more than 64 MiB of memory");
    let costly = |name, bytes, refused| Costly {
        name,
        bytes,
        refused,
    };
    vec![
        costly(
            "a-start-without-end",
            beside("(module (func $f (loop $l (br $l))) (start $f))", 1),
            Some("it did not answer within 5000 ms"),
        ),
        costly(
            "a-start-that-traps",
            beside("(module (func $f unreachable) (start $f))", 1),
            Some("it trapped"),
        ),
        costly("all-memory", beside("(module (memory 65536))", 1), memory),
        costly(
            "a-large-table",
            beside("(module (table 10000000 funcref))", 1),
            memory,
        ),
        costly("much-memory", beside("(module (memory 600))", 2), memory),
        costly("a-long-function", beside(&body(200_000), 1), None),
        costly(
            "a-longer-function",
            beside(&body(400_000), 1),
            Some("bytes of one function"),
        ),
        costly(
            "many-functions",
            beside(&format!("(module {functions})"), 1),
            None,
        ),
        costly(
            "many-functions-often",
            beside(&format!("(module {functions})"), 30),
            Some("bytes of state of all instances"),
        ),
        costly(
            "many-globals",
            beside(&format!("(module {globals})"), 100),
            Some("bytes of state of all instances"),
        ),
        costly(
            "many-instances",
            beside("(module)", 900),
            Some("instances of modules: "),
        ),
        costly(
            "many-empty-memories",
            beside("(module (memory 0))", 100),
            Some("memories: 17, and 16 at most"),
        ),
        costly(
            "many-empty-tables",
            beside("(module (table 0 funcref))", 150),
            Some("tables: 101, and 100 at most"),
        ),
        costly(
            "doubled",
            multiplied(
                "(component (core module $m)
                   (core instance (instantiate $m)) (core instance (instantiate $m))
                   (core instance (instantiate $m)) (core instance (instantiate $m)))",
                10,
                2,
            ),
            Some("instances of modules: "),
        ),
        // Of nothing that runs, eight thousand million: each has its place in the compiler and in a call.
        costly(
            "nothing-often",
            multiplied("(component)", 4, 300),
            Some("instances of components: "),
        ),
        costly(
            "aliases-often",
            multiplied(
                &format!(
                    "(component (core module $m (func (export \"f\")))
                       (core instance $i (instantiate $m)) {})",
                    "(alias core export $i \"f\" (core func)) ".repeat(2_000)
                ),
                1,
                190,
            ),
            Some("items of all instances of components: "),
        ),
        costly(
            "resources-often",
            multiplied(
                &format!(
                    "(component {})",
                    "(type (resource (rep i32))) ".repeat(100_000)
                ),
                1,
                190,
            ),
            Some("items of all instances of components: "),
        ),
        // Each alias copies the whole instance.
        costly(
            "a-wide-instance-that-is-copied",
            another(&{
                let exports: String = (0..50_000)
                    .map(|number| format!("(export \"f{number}\" (type $t)) "))
                    .collect();
                let aliases = "(alias export $outer \"i\" (instance)) ".repeat(900);
                format!(
                    "(component (type $t u8) (instance $wide {exports})
                       (instance $outer (export \"i\" (instance $wide))) {aliases})"
                )
            }),
            Some("items of all instances of components: "),
        ),
        costly(
            "modules-that-are-passed-on",
            passed_on("core module"),
            Some("modules or components that are imported"),
        ),
        costly(
            "components-that-are-passed-on",
            passed_on("component"),
            Some("modules or components that are imported"),
        ),
        costly(
            "many-levels",
            wat::parse_str(format!("{}{}", "(component ".repeat(60), ")".repeat(60)))
                .expect("it is written well"),
            Some("components in one another: 17"),
        ),
        costly(
            "many-types",
            wat::parse_str(format!(
                "(component {})",
                "(type (record (field \"a\" string))) ".repeat(20_000)
            ))
            .expect("it is written well"),
            Some("it exports no casemate:tee/backend"),
        ),
    ]
}

struct Hostile {
    name: String,
    bytes: Vec<u8>,
}

fn all() -> Vec<Hostile> {
    let numbered = |kind: &'static str, count: usize, make: fn(usize) -> Vec<u8>| {
        (0..count).map(move |index| Hostile {
            name: format!("{kind}-{index}"),
            bytes: make(index),
        })
    };
    let by_hand = by_hand().into_iter().map(|costly| Hostile {
        name: costly.name.to_owned(),
        bytes: costly.bytes,
    });
    numbered("generated", GENERATED, generated)
        .chain(numbered("changed", CHANGED, changed))
        .chain(numbered("cut-off", CUT_OFF, cut_off))
        .chain(by_hand)
        .collect()
}

/// The daemon's config with a backend for each, whose files are not there yet: what did not serve
/// before may fail at a reload.
fn setup(hostile: &[Hostile]) -> Setup {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    // What the allocator keeps for each thread would hide what the daemon keeps.
    setup.variable("MALLOC_ARENA_MAX", "1");
    // A reload of them all takes more than a minute on a machine that is busy.
    setup.set("grpc.timeout", "15m");
    for one in hostile {
        let path = setup.folder.path().join(format!("{}.wasm", one.name));
        let mut backend = toml::Table::new();
        backend.insert("name".to_owned(), one.name.clone().into());
        backend.insert("path".to_owned(), path.display().to_string().into());
        backend.insert("allow_unpinned".to_owned(), true.into());
        // All that any of the real ones asks for: what is refused is refused for something else.
        let grants = toml::toml! { facts = [
            { fact = "qemu-machine", pattern = "*" },
            { fact = "qemu-version", pattern = "" },
            { fact = "qemu-type", pattern = "*" },
        ] };
        backend.insert("grants".to_owned(), grants.into());
        setup.config["backend"]
            .as_array_mut()
            .expect("an array")
            .push(backend.into());
    }
    setup
}

async fn reload(daemon: &Daemon) -> Vec<v1::BackendReload> {
    let mut backends = daemon.backends().await;
    let answer = backends.reload_backends(v1::ReloadBackendsRequest {}).await;
    answer.expect("it reloads").into_inner().backends
}

fn write(folder: &Path, hostile: &[Hostile]) {
    for one in hostile {
        std::fs::write(folder.join(format!("{}.wasm", one.name)), &one.bytes).expect("a file");
    }
}

/// Others who use the daemon: each answer in time, and every plan of a good backend made. The
/// longest that one waited.
async fn others(daemon: Arc<Daemon>, stop: Arc<AtomicBool>) -> Duration {
    let mut vms = daemon.vms().await;
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        vms.list_vms(v1::ListVmsRequest::default())
            .await
            .expect("a list");
        vms.plan_vm(v1::PlanVmRequest {
            spec: Some(v1::VmSpec::default()),
            ..v1::PlanVmRequest::default()
        })
        .await
        .expect("a plan");
        longest = longest.max(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    longest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_serves_bears_them_all() {
    let hostile = all();
    assert!(hostile.len() >= 100, "{}", hostile.len());
    let daemon = Arc::new(setup(&hostile).start());
    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    let stop = Arc::new(AtomicBool::new(false));
    let others = tokio::spawn(others(daemon.clone(), stop.clone()));

    write(daemon.folder.path(), &hostile);
    let reloaded = reload(&daemon).await;
    let mut serving = Vec::new();
    for one in &hostile {
        let told = reloaded.iter().find(|told| told.name == one.name);
        let told = told.unwrap_or_else(|| panic!("{} is not told of", one.name));
        match &*told.change {
            "failed" => assert!(!told.error.is_empty(), "{}", one.name),
            "added" => serving.push(&*one.name),
            other => panic!("{}: {other}", one.name),
        }
    }
    for costly in by_hand() {
        let told = reloaded.iter().find(|told| told.name == costly.name);
        let error = &told.expect("it is told of").error;
        match costly.refused {
            Some(words) => assert!(error.contains(words), "{}: {error}", costly.name),
            None => assert_eq!(error, "", "{}", costly.name),
        }
    }
    // Not all that was changed is broken: those that load are called.
    println!("{} of {} load: {serving:?}", serving.len(), hostile.len());
    assert!(!serving.is_empty());
    let mut vms = daemon.vms().await;
    for name in &serving {
        let begun = Instant::now();
        let request = v1::PlanVmRequest {
            spec: Some(v1::VmSpec {
                backend: (*name).to_owned(),
                ..v1::VmSpec::default()
            }),
            ..v1::PlanVmRequest::default()
        };
        let code = vms.plan_vm(request).await.err().map(|status| status.code());
        let known = [
            None,
            Some(Code::Internal),
            Some(Code::InvalidArgument),
            Some(Code::FailedPrecondition),
            Some(Code::Unavailable),
        ];
        assert!(known.contains(&code), "{name}: {code:?}");
        assert!(begun.elapsed() < CALL_TIME, "{name}: {:?}", begun.elapsed());
        let mut backends = daemon.backends().await;
        let request = v1::GetBackendRequest {
            name: (*name).to_owned(),
        };
        let _ = backends.get_backend(request).await;
        assert!(begun.elapsed() < 2 * CALL_TIME, "{name}");
    }
    stop.store(true, Ordering::Relaxed);
    let longest = others.await.expect("nobody was refused");
    println!("others waited {longest:?} at most");
    assert!(longest < OTHERS_TIME, "{longest:?}");

    // Again, and again: nothing is kept of those that do not load.
    let mut resident = Vec::new();
    for _ in 0..RELOADS {
        reload(&daemon).await;
        resident.push(daemon.resident_kib());
    }
    println!("{resident:?} KiB");
    let (before, after) = (resident[0], resident[RELOADS - 1]);
    assert!(
        after < before + MAX_GROWTH_KIB,
        "{before} KiB became {after} KiB"
    );

    let log = daemon.log();
    assert!(!log.contains("panicked"), "{log}");
    let running = daemon.get(&vm.id).await.expect("it runs on");
    assert_eq!(running.state(), v1::VmState::Running);
}

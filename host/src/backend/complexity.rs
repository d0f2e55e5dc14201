//! How much a component is, before it is compiled: compilation cannot be interrupted, and an instance
//! takes what its modules say that it takes, past the limits of a call.
//!
//! What is counted is the whole tree of instances: a component that instantiates another twice, which
//! instantiates another twice, is small in its bytes alone. Where the code does not follow what is
//! instantiated (an alias of what a component around it has), it takes the largest that it has seen,
//! which is complete by then. What comes as an import, or out of an instance, could be anything that
//! follows: modules and components are not passed on so. The size of the file bounds the rest: types,
//! names and the number of functions.

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind,
    ComponentType, ComponentTypeRef, Instance, InstanceTypeDeclaration, Parser, Payload, TypeRef,
};

/// Instances of modules. A component of one module has 4, one that links the libraries of a language
/// some 30.
pub(super) const MOST_INSTANCES: u64 = 200;
/// Instances of components: each has a state of its own, in the compiler and in each call. A component
/// has one for each interface that it exports.
pub(super) const MOST_COMPONENT_INSTANCES: u64 = 200;
/// What is instantiated, lifted, lowered, aliased, imported, exported and given to an instance, and each
/// type of resource, counted with each instance: the compiler goes through all of it. An instance of a
/// component that is passed on is copied with all that it has, and counts as the widest so far. A
/// component that brings the runtime of a language has some thousand.
const MOST_ITEMS: u64 = 100_000;
/// Memories and tables that instances define. Each memory reserves gigabytes of addresses; a component
/// has one, and one for each adapter.
pub(super) const MOST_MEMORIES: u64 = 16;
pub(super) const MOST_TABLES: u64 = 100;
/// What the host sets up for the instances themselves, whatever they do. Those of Python have half a
/// MiB.
const MOST_STATE_BYTES: u64 = 8 << 20;
/// Longest function: the loop of an interpreter has some 200 KiB, and a compiler's time grows faster
/// than the length.
const LONGEST_FUNCTION: u64 = 1 << 20;
/// Components in components.
const DEEPEST: u64 = 16;

/// What an instance has of each in the host's memory, rounded up (wasmtime's `VMContext`).
const FUNCTION_BYTES: u64 = 32;
const GLOBAL_BYTES: u64 = 16;
const TABLE_BYTES: u64 = 32;
const MEMORY_BYTES: u64 = 32;
const SEGMENT_BYTES: u64 = 16;

/// What there is too much of.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{what}: {found}, and {most} at most are loaded")]
pub struct TooComplex {
    what: &'static str,
    found: u64,
    most: u64,
}

/// What one instance of something takes.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    instances: u64,
    components: u64,
    items: u64,
    memories: u64,
    tables: u64,
    state_bytes: u64,
}

impl Cost {
    fn add(&mut self, other: Self) {
        self.instances = self.instances.saturating_add(other.instances);
        self.components = self.components.saturating_add(other.components);
        self.items = self.items.saturating_add(other.items);
        self.memories = self.memories.saturating_add(other.memories);
        self.tables = self.tables.saturating_add(other.tables);
        self.state_bytes = self.state_bytes.saturating_add(other.state_bytes);
    }

    fn largest(self, other: Self) -> Self {
        Self {
            instances: self.instances.max(other.instances),
            components: self.components.max(other.components),
            items: self.items.max(other.items),
            memories: self.memories.max(other.memories),
            tables: self.tables.max(other.tables),
            state_bytes: self.state_bytes.max(other.state_bytes),
        }
    }

    fn has(&mut self, count: u64, bytes: u64) {
        self.state_bytes = self.state_bytes.saturating_add(count.saturating_mul(bytes));
    }

    fn check(self) -> Result<(), TooComplex> {
        bounded("instances of modules", self.instances, MOST_INSTANCES)?;
        let (what, most) = ("instances of components", MOST_COMPONENT_INSTANCES);
        bounded(what, self.components, most)?;
        bounded(
            "items of all instances of components",
            self.items,
            MOST_ITEMS,
        )?;
        bounded("memories", self.memories, MOST_MEMORIES)?;
        bounded("tables", self.tables, MOST_TABLES)?;
        let what = "bytes of state of all instances, beside their memories and tables";
        bounded(what, self.state_bytes, MOST_STATE_BYTES)
    }
}

fn bounded(what: &'static str, found: u64, most: u64) -> Result<(), TooComplex> {
    match found <= most {
        true => Ok(()),
        false => Err(TooComplex { what, found, most }),
    }
}

/// A component or module whose end has not come.
#[derive(Debug)]
enum Open {
    Module(Cost),
    Component(Box<OpenComponent>),
}

#[derive(Debug, Default)]
struct OpenComponent {
    /// What an instance of it takes.
    cost: Cost,
    /// By their indices. None: it is one of a component around this one.
    modules: Vec<Option<Cost>>,
    components: Vec<Option<Cost>>,
    /// Items of an instance of it.
    width: u64,
}

impl OpenComponent {
    /// With one instance more in it.
    fn takes(&mut self, cost: Cost) -> Result<(), TooComplex> {
        self.cost.add(cost);
        self.cost.check()
    }

    fn has_items(&mut self, items: u64) -> Result<(), TooComplex> {
        self.takes(Cost {
            items,
            ..Cost::default()
        })
    }
}

#[derive(Debug, Default)]
struct Scan {
    open: Vec<Open>,
    seen: Seen,
}

/// The most that anything had so far.
#[derive(Debug, Default)]
struct Seen {
    module: Cost,
    component: Cost,
    /// Items of an instance of a component, with those of the instances in it.
    width: u64,
}

impl Seen {
    /// What the compiler copies of an item that is passed on.
    fn passed(&self, is_instance: bool) -> u64 {
        match is_instance {
            true => self.width.saturating_add(1),
            false => 1,
        }
    }

    fn has_width(&mut self, width: u64) {
        self.width = self.width.max(width);
    }

    fn width_of_type(&mut self, declarations: &[InstanceTypeDeclaration<'_>]) {
        let mut width = 0_u64;
        for declaration in declarations {
            match declaration {
                InstanceTypeDeclaration::Type(ComponentType::Instance(inner)) => {
                    self.width_of_type(inner);
                }
                InstanceTypeDeclaration::Export { ty, .. } => {
                    let is_instance = matches!(ty, ComponentTypeRef::Instance(_));
                    width = width.saturating_add(self.passed(is_instance));
                }
                _ => {}
            }
        }
        self.has_width(width);
    }
}

/// Refuses what is more than a backend is. What is no valid component is left to the compiler, whose
/// words are better.
pub(super) fn check(bytes: &[u8]) -> Result<(), TooComplex> {
    let mut scan = Scan::default();
    for payload in Parser::new(0).parse_all(bytes) {
        let Ok(payload) = payload else {
            return Ok(());
        };
        match scan.take(payload) {
            Ok(()) => {}
            Err(Stop::TooComplex(error)) => return Err(error),
            Err(Stop::Invalid) => return Ok(()),
        }
    }
    Ok(())
}

enum Stop {
    TooComplex(TooComplex),
    Invalid,
}

impl From<TooComplex> for Stop {
    fn from(error: TooComplex) -> Self {
        Self::TooComplex(error)
    }
}

impl From<wasmparser::BinaryReaderError> for Stop {
    fn from(_: wasmparser::BinaryReaderError) -> Self {
        Self::Invalid
    }
}

impl Scan {
    fn take(&mut self, payload: Payload<'_>) -> Result<(), Stop> {
        if let Payload::CodeSectionEntry(body) = &payload {
            let range = body.range();
            let length = range.end.saturating_sub(range.start);
            bounded("bytes of one function", length as u64, LONGEST_FUNCTION)?;
        }
        match payload {
            Payload::Version { encoding, .. } => {
                self.open.push(match encoding {
                    wasmparser::Encoding::Module => Open::Module(Cost::default()),
                    wasmparser::Encoding::Component => Open::Component(Box::default()),
                });
                bounded("components in one another", self.open.len() as u64, DEEPEST)?;
            }
            Payload::End(_) => self.close(),
            payload => match self.open.last_mut() {
                Some(Open::Module(cost)) => module(cost, payload)?,
                Some(Open::Component(component)) => {
                    self::component(component, &mut self.seen, payload)?;
                }
                None => {}
            },
        }
        Ok(())
    }

    /// What is closed is an item of the component around it, if there is one.
    fn close(&mut self) {
        let closed = self.open.pop();
        let outer = match self.open.last_mut() {
            Some(Open::Component(outer)) => Some(outer),
            Some(Open::Module(_)) | None => None,
        };
        match closed {
            Some(Open::Module(mut cost)) => {
                cost.instances = 1;
                self.seen.module = self.seen.module.largest(cost);
                if let Some(outer) = outer {
                    outer.modules.push(Some(cost));
                }
            }
            Some(Open::Component(component)) => {
                let mut cost = component.cost;
                cost.components = cost.components.saturating_add(1);
                self.seen.component = self.seen.component.largest(cost);
                self.seen.has_width(component.width);
                if let Some(outer) = outer {
                    outer.components.push(Some(cost));
                }
            }
            None => {}
        }
    }
}

fn module(cost: &mut Cost, payload: Payload<'_>) -> Result<(), Stop> {
    match payload {
        Payload::ImportSection(section) => {
            for import in section.into_imports() {
                let bytes = match import?.ty {
                    TypeRef::Global(_) => GLOBAL_BYTES,
                    TypeRef::Memory(_) => MEMORY_BYTES,
                    TypeRef::Table(_) => TABLE_BYTES,
                    _ => FUNCTION_BYTES,
                };
                cost.has(1, bytes);
            }
        }
        Payload::FunctionSection(section) => cost.has(section.count().into(), FUNCTION_BYTES),
        Payload::GlobalSection(section) => cost.has(section.count().into(), GLOBAL_BYTES),
        Payload::TableSection(section) => {
            cost.tables = cost.tables.saturating_add(section.count().into());
            cost.has(section.count().into(), TABLE_BYTES);
        }
        Payload::MemorySection(section) => {
            cost.memories = cost.memories.saturating_add(section.count().into());
            cost.has(section.count().into(), MEMORY_BYTES);
        }
        Payload::ElementSection(section) => cost.has(section.count().into(), SEGMENT_BYTES),
        Payload::DataSection(section) => cost.has(section.count().into(), SEGMENT_BYTES),
        _ => {}
    }
    Ok(())
}

fn component(
    component: &mut OpenComponent,
    seen: &mut Seen,
    payload: Payload<'_>,
) -> Result<(), Stop> {
    let of = |known: &[Option<Cost>], index: u32, largest: Cost| {
        let known = known.get(index as usize).copied().flatten();
        known.unwrap_or(largest)
    };
    match payload {
        Payload::InstanceSection(section) => {
            for instance in section {
                match instance? {
                    Instance::Instantiate { module_index, args } => {
                        component.has_items(1 + args.len() as u64)?;
                        component.takes(of(&component.modules, module_index, seen.module))?;
                    }
                    Instance::FromExports(exports) => {
                        component.has_items(1 + exports.len() as u64)?;
                    }
                }
            }
        }
        Payload::ComponentInstanceSection(section) => {
            for instance in section {
                match instance? {
                    ComponentInstance::Instantiate {
                        component_index,
                        args,
                    } => {
                        let passed = args.iter().map(|arg| seen.passed(is_instance(arg.kind)));
                        component.has_items(total(passed).saturating_add(1))?;
                        let cost = of(&component.components, component_index, seen.component);
                        component.takes(cost)?;
                    }
                    ComponentInstance::FromExports(exports) => {
                        let passed = exports.iter().map(|one| seen.passed(is_instance(one.kind)));
                        let width = total(passed);
                        component.has_items(width.saturating_add(1))?;
                        seen.has_width(width);
                    }
                }
            }
        }
        Payload::ComponentTypeSection(section) => {
            for ty in section {
                match ty? {
                    ComponentType::Resource { .. } => component.has_items(1)?,
                    ComponentType::Instance(declarations) => seen.width_of_type(&declarations),
                    _ => {}
                }
            }
        }
        Payload::ComponentCanonicalSection(section) => {
            component.has_items(section.count().into())?;
        }
        Payload::ComponentAliasSection(section) => {
            for alias in section {
                let passed = match alias? {
                    ComponentAlias::Outer { kind, .. } => {
                        match kind {
                            ComponentOuterAliasKind::CoreModule => component.modules.push(None),
                            ComponentOuterAliasKind::Component => component.components.push(None),
                            _ => {}
                        }
                        1
                    }
                    ComponentAlias::InstanceExport {
                        kind: ComponentExternalKind::Module | ComponentExternalKind::Component,
                        ..
                    } => return Err(passed_on()),
                    ComponentAlias::InstanceExport { kind, .. } => seen.passed(is_instance(kind)),
                    ComponentAlias::CoreInstanceExport { .. } => 1,
                };
                component.has_items(passed)?;
            }
        }
        Payload::ComponentImportSection(section) => {
            for import in section {
                let passed = match import?.ty {
                    ComponentTypeRef::Module(_) | ComponentTypeRef::Component(_) => {
                        return Err(passed_on());
                    }
                    ty => seen.passed(matches!(ty, ComponentTypeRef::Instance(_))),
                };
                component.has_items(passed)?;
            }
        }
        Payload::ComponentExportSection(section) => {
            // An export is an item of its own, with the next index.
            for export in section {
                let export = export?;
                let passed = seen.passed(is_instance(export.kind));
                component.has_items(passed)?;
                component.width = component.width.saturating_add(passed);
                let exported = |known: &[Option<Cost>]| {
                    let known = known.get(export.index as usize).copied();
                    known.ok_or(Stop::Invalid)
                };
                match export.kind {
                    ComponentExternalKind::Module => {
                        let cost = exported(&component.modules)?;
                        component.modules.push(cost);
                    }
                    ComponentExternalKind::Component => {
                        let cost = exported(&component.components)?;
                        component.components.push(cost);
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn is_instance(kind: ComponentExternalKind) -> bool {
    kind == ComponentExternalKind::Instance
}

fn total(passed: impl Iterator<Item = u64>) -> u64 {
    passed.fold(0, u64::saturating_add)
}

/// A module or a component that comes from who instantiates the one that has it.
fn passed_on() -> Stop {
    Stop::TooComplex(TooComplex {
        what: "modules or components that are imported",
        found: 1,
        most: 0,
    })
}

//! One pass over the binary that counts before anything is built from it.
//!
//! Bounds what compiling can cost: function bodies, locals and functions decide that (measured: a body of
//! 128 KiB takes two seconds), and what an instance can ask for.

use wasmparser::{
    CanonicalFunction, CanonicalOption, ComponentInstance, ComponentType, Encoding, Instance,
    MemoryType, Parser, Payload, TypeRef,
};

use super::{AdmissionRefused, invalid};
use crate::limits;

const MAX_BODY_BYTES: usize = 128 << 10;
const MAX_LOCALS: u32 = 1_000;
const MAX_FUNCTIONS: u32 = 20_000;
/// Components within components: the converter makes one level of small ones.
const MAX_COMPONENTS: u32 = 64;
const MAX_DEPTH: usize = 4;
const MAX_MODULES: u32 = 16;
/// Instances of components: the converter makes one for each exported interface. Bounds what instances of
/// components that have instances multiply to.
const MAX_COMPONENT_INSTANCES: u32 = 64;
/// A page of linear memory.
const PAGE_BYTES: u64 = 64 << 10;

/// What a core module says about itself.
pub(super) struct ModuleFacts {
    pub(super) has_component_type: bool,
    pub(super) imports_wasi_preview1: bool,
}

pub(super) fn module_facts(module: &[u8]) -> Result<ModuleFacts, AdmissionRefused> {
    let mut facts = ModuleFacts {
        has_component_type: false,
        imports_wasi_preview1: false,
    };
    for payload in Parser::new(0).parse_all(module) {
        match payload.map_err(|error| invalid(&error.to_string()))? {
            Payload::CustomSection(section) => {
                facts.has_component_type |= section.name().starts_with("component-type");
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import.map_err(|error| invalid(&error.to_string()))?;
                    facts.imports_wasi_preview1 |= import.module.starts_with("wasi_snapshot");
                }
            }
            _ => {}
        }
    }
    Ok(facts)
}

#[derive(Default)]
struct Counts {
    functions: u32,
    modules: u32,
    components: u32,
    memories: u32,
    tables: u32,
    core_instances: u32,
    component_instances: u32,
}

/// Refuses what is too large in some respect.
pub(super) fn scan(wasm: &[u8]) -> Result<(), AdmissionRefused> {
    let mut counts = Counts::default();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(|error| invalid(&error.to_string()))?;
        match &payload {
            Payload::Version { encoding, .. } => {
                depth += 1;
                match encoding {
                    Encoding::Component => counts.components += 1,
                    Encoding::Module => counts.modules += 1,
                }
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
        at_most("component-depth", "nested components", depth, MAX_DEPTH)?;
        counts.take(&payload)?;
        counts.check()?;
    }
    Ok(())
}

impl Counts {
    fn take(&mut self, payload: &Payload<'_>) -> Result<(), AdmissionRefused> {
        let broken = |error: wasmparser::BinaryReaderError| invalid(&error.to_string());
        match payload {
            Payload::FunctionSection(section) => {
                self.functions = self.functions.saturating_add(section.count());
            }
            Payload::CodeSectionEntry(body) => {
                let range = body.range();
                at_most(
                    "body-size",
                    "bytes in one function",
                    range.end - range.start,
                    MAX_BODY_BYTES,
                )?;
                let mut locals = 0_u32;
                for declared in body.get_locals_reader().map_err(broken)? {
                    locals = locals.saturating_add(declared.map_err(broken)?.0);
                    at_most("locals", "locals in one function", locals, MAX_LOCALS)?;
                }
            }
            Payload::MemorySection(section) => {
                for memory in section.clone() {
                    self.memories += 1;
                    plain_memory(&memory.map_err(broken)?)?;
                }
            }
            Payload::TableSection(section) => {
                for table in section.clone() {
                    let table = table.map_err(broken)?;
                    self.tables += 1;
                    let cap = limits::TABLE_ELEMENTS as u64;
                    at_most(
                        "table-size",
                        "initial elements of a table",
                        table.ty.initial,
                        cap,
                    )?;
                }
            }
            Payload::InstanceSection(section) => {
                for instance in section.clone() {
                    if let Instance::Instantiate { .. } = instance.map_err(broken)? {
                        self.core_instances = self.core_instances.saturating_add(1);
                    }
                }
            }
            Payload::ImportSection(section) => {
                for import in section.clone().into_imports() {
                    if let TypeRef::Memory(memory) = import.map_err(broken)?.ty {
                        plain_memory(&memory)?;
                    }
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section.clone() {
                    if let ComponentInstance::Instantiate { .. } = instance.map_err(broken)? {
                        self.component_instances = self.component_instances.saturating_add(1);
                    }
                }
            }
            Payload::ComponentTypeSection(section) => {
                for ty in section.clone() {
                    if let ComponentType::Func(function) = ty.map_err(broken)?
                        && function.async_
                    {
                        return Err(asynchronous("a function's type is async"));
                    }
                }
            }
            Payload::ComponentCanonicalSection(section) => {
                for function in section.clone() {
                    plain_function(&function.map_err(broken)?)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn check(&self) -> Result<(), AdmissionRefused> {
        at_most("functions", "functions", self.functions, MAX_FUNCTIONS)?;
        at_most("modules", "core modules", self.modules, MAX_MODULES)?;
        at_most("components", "components", self.components, MAX_COMPONENTS)?;
        at_most(
            "component-instances",
            "instances of components",
            self.component_instances,
            MAX_COMPONENT_INSTANCES,
        )?;
        at_most("memories", "memories", self.memories, limits::MEMORIES)?;
        at_most("tables", "tables", self.tables, limits::TABLES)?;
        at_most(
            "core-instances",
            "core instances",
            self.core_instances,
            limits::CORE_INSTANCES,
        )
    }
}

/// A memory of one thread, addressed by 32 bits, in pages of the usual size, that fits into a slot.
fn plain_memory(memory: &MemoryType) -> Result<(), AdmissionRefused> {
    let refused = |rule, detail: &str, help| Err(AdmissionRefused::new(rule, detail, help));
    if memory.memory64 {
        return refused(
            "memory64",
            "a memory is addressed by 64 bits",
            "build for wasm32-unknown-unknown, not for wasm64",
        );
    }
    if memory.shared {
        return refused(
            "shared-memory",
            "a memory is shared between threads",
            "build without threads: a call has one thread",
        );
    }
    if memory.page_size_log2.is_some() {
        return refused(
            "page-size",
            "a memory has pages of a size of its own",
            "build without custom page sizes",
        );
    }
    let cap = limits::MEMORY_CAP_BYTES as u64 / PAGE_BYTES;
    at_most(
        "memory-size",
        "pages of initial memory",
        memory.initial,
        cap,
    )
}

/// The border between core modules and components is crossed by plain calls.
fn plain_function(function: &CanonicalFunction) -> Result<(), AdmissionRefused> {
    let options = match function {
        CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. } => {
            options
        }
        CanonicalFunction::ResourceNew { .. }
        | CanonicalFunction::ResourceDrop { .. }
        | CanonicalFunction::ResourceRep { .. } => return Ok(()),
        // Tasks, threads, streams and futures, of which there are many kinds.
        _ => return Err(asynchronous("it uses tasks, threads, streams or futures")),
    };
    let is_async = |option: &CanonicalOption| {
        matches!(
            option,
            CanonicalOption::Async | CanonicalOption::Callback(_)
        )
    };
    if options.iter().any(is_async) {
        return Err(asynchronous("a function is lifted or lowered as async"));
    }
    Ok(())
}

fn asynchronous(detail: &str) -> AdmissionRefused {
    AdmissionRefused::new(
        "async",
        detail,
        "hooks and capabilities are plain functions for now; build the plugin with tidegate-sdk",
    )
}

fn at_most<N: PartialOrd + Copy + std::fmt::Display>(
    rule: &'static str,
    what: &str,
    found: N,
    limit: N,
) -> Result<(), AdmissionRefused> {
    if found <= limit {
        return Ok(());
    }
    Err(AdmissionRefused::new(
        rule,
        format!("there are {found} {what}, more than {limit}"),
        "make the plugin smaller: split large functions, optimise for size, leave out what it does not need",
    ))
}

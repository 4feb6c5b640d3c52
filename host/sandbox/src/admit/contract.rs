//! What a component imports and exports, against the WIT of this node.
//!
//! The component's own types are compared with ours in step, so a hook of the wrong shape is named at upload
//! and not at the first call. The walk follows our types, which are few; however large the component's are,
//! it ends where the two differ.

use std::sync::LazyLock;

use wit_component::DecodedWasm;
use wit_parser::{
    Function, FunctionKind, Interface, InterfaceId, PackageId, Resolve, SourceMap, Type,
    TypeDefKind, WorldItem,
};

use super::AdmissionRefused;
use crate::{
    binding::{Class, Hook},
    stubs,
};

/// What the component does with the contract.
#[derive(Debug)]
pub(super) struct Contract {
    pub(super) hooks: Vec<Hook>,
    pub(super) imports: Vec<String>,
    /// Whether it says which settings it can use.
    pub(super) checks_settings: bool,
}

/// The export that is no hook.
const SETTINGS: &str = "settings";

/// What an export is to us.
enum Exported {
    Hook(Hook),
    Settings,
}

/// Package and minor version; any patch of it is compatible.
const PACKAGE: &str = "tidegate:plugin/";
const COMPATIBLE: &str = "0.1.";

/// Interfaces whose functions may have to ask another machine.
const WAITING: [&str; 1] = ["store"];

/// Whether an import makes a plugin one that waits.
pub(super) fn waits(import: &str) -> bool {
    import.strip_prefix(PACKAGE).is_some_and(|rest| {
        let interface = rest
            .split_once('@')
            .map_or(rest, |(interface, _)| interface);
        WAITING.contains(&interface)
    })
}

/// The interfaces that may be imported: those of the contract's world `capabilities`.
static CAPABILITIES: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let (resolve, package) = &*OURS;
    let world = resolve.packages[*package].worlds.get("capabilities");
    let imports = world
        .into_iter()
        .flat_map(|world| resolve.worlds[*world].imports.values());
    let mut names: Vec<_> = imports
        .filter_map(|item| match item {
            WorldItem::Interface { id, .. } => resolve.interfaces[*id].name.as_deref(),
            WorldItem::Function(_) | WorldItem::Type { .. } => None,
        })
        .collect();
    names.sort_unstable();
    names
});

/// Our side of the comparison.
static OURS: LazyLock<(Resolve, PackageId)> = LazyLock::new(|| {
    let mut sources = SourceMap::new();
    sources.push_str("hooks.wit", include_str!("../../../../wit/hooks.wit"));
    sources.push_str(
        "capabilities.wit",
        include_str!("../../../../wit/capabilities.wit"),
    );
    sources.push_str("worlds.wit", include_str!("../../../../wit/worlds.wit"));
    let mut resolve = Resolve::default();
    let package = sources
        .parse()
        .ok()
        .and_then(|group| resolve.push_group(group).ok())
        .expect("the WIT was parsed when this crate was built");
    (resolve, package)
});

/// An interface of ours by name.
fn ours(name: &str) -> Option<InterfaceId> {
    let (resolve, package) = &*OURS;
    resolve.packages[*package].interfaces.get(name).copied()
}

pub(super) fn check(component: &[u8]) -> Result<Contract, AdmissionRefused> {
    let decoded = wit_component::decode(component).map_err(|error| {
        AdmissionRefused::new(
            "undecodable",
            format!("the component's type cannot be read: {error:#}"),
            "build the plugin with the tidegate-sdk of this server's version",
        )
    })?;
    let DecodedWasm::Component(resolve, world) = decoded else {
        return Err(AdmissionRefused::new(
            "not-a-plugin",
            "the upload is a WIT package, not a component",
            "upload the .wasm file that `tidegate plugin build` made",
        ));
    };
    let world = &resolve.worlds[world];
    let mut imports = Vec::new();
    for (key, item) in &world.imports {
        let name = resolve.name_world_key(key);
        check_import(&resolve, &name, item)?;
        imports.push(name);
    }
    imports.sort();
    let mut hooks = Vec::new();
    let mut checks_settings = false;
    for (key, item) in &world.exports {
        let name = resolve.name_world_key(key);
        match check_export(&resolve, &name, item)? {
            Exported::Hook(hook) => hooks.push(hook),
            Exported::Settings => checks_settings = true,
        }
    }
    hooks.sort();
    hooks.dedup();
    if hooks.is_empty() {
        return Err(AdmissionRefused::new(
            "no-hook",
            "the component exports no hook",
            "implement a hook's trait and name it in plugin!(…)",
        ));
    }
    check_class(&hooks, &imports)?;
    Ok(Contract {
        hooks,
        imports,
        checks_settings,
    })
}

/// A plugin that waits has no hook where messages pass.
fn check_class(hooks: &[Hook], imports: &[String]) -> Result<(), AdmissionRefused> {
    let Some(import) = imports.iter().find(|import| waits(import)) else {
        return Ok(());
    };
    let Some(hook) = hooks.iter().find(|hook| !hook.suits(Class::Waiting)) else {
        return Ok(());
    };
    Err(AdmissionRefused::new(
        "waiting-import",
        format!(
            "the component imports `{import}`, which waits for other machines, and exports `{hook}`, where nobody waits"
        ),
        "use `state` there, or put what waits into a plugin of its own that has other hooks",
    ))
}

/// The interface's name if it is one of our package at a compatible version.
fn in_package(name: &str) -> Result<Option<&str>, AdmissionRefused> {
    let Some(rest) = name.strip_prefix(PACKAGE) else {
        return Ok(None);
    };
    match rest.split_once('@') {
        Some((interface, version)) if version.starts_with(COMPATIBLE) => Ok(Some(interface)),
        Some(_) | None => Err(AdmissionRefused::new(
            "contract-version",
            format!("`{name}` is not of version {COMPATIBLE}x, which this server speaks"),
            "build with the tidegate-sdk of this server's version",
        )),
    }
}

fn check_import(resolve: &Resolve, name: &str, item: &WorldItem) -> Result<(), AdmissionRefused> {
    let forbidden = || {
        AdmissionRefused::new(
            "import",
            format!("the component imports `{name}`, which plugins are not given"),
            format!(
                "use only {PACKAGE}{{{}}}; files, sockets, HTTP, threads and the environment are not there",
                CAPABILITIES.join(", ")
            ),
        )
    };
    let WorldItem::Interface { id, .. } = item else {
        return match item {
            // A type shared by the interfaces is nothing to call.
            WorldItem::Type { .. } => Ok(()),
            WorldItem::Function(_) | WorldItem::Interface { .. } => Err(forbidden()),
        };
    };
    if stubs::is_stubbed(name) {
        return Ok(());
    }
    let Some(interface) = in_package(name)? else {
        return Err(forbidden());
    };
    let ours = CAPABILITIES
        .contains(&interface)
        .then(|| ours(interface))
        .flatten()
        .ok_or_else(forbidden)?;
    let ours = &OURS.0.interfaces[ours];
    for (function, theirs) in &resolve.interfaces[*id].functions {
        let Some(ours) = ours.functions.get(function) else {
            return Err(AdmissionRefused::new(
                "import",
                format!("`{name}` has no function `{function}` here"),
                "build with the tidegate-sdk of this server's version",
            ));
        };
        same_function(ours, resolve, theirs).map_err(|problem| {
            AdmissionRefused::new(
                "import-type",
                format!("`{name}` function `{function}`: {problem}"),
                "build the plugin against the WIT of this server's version",
            )
        })?;
    }
    Ok(())
}

fn check_export(
    resolve: &Resolve,
    name: &str,
    item: &WorldItem,
) -> Result<Exported, AdmissionRefused> {
    let unknown = || {
        AdmissionRefused::new(
            "export",
            format!("the component exports `{name}`, which is no hook of this server"),
            format!(
                "export only {PACKAGE}{{{}, {SETTINGS}}}",
                Hook::ALL.map(Hook::as_str).join(", ")
            ),
        )
    };
    let WorldItem::Interface { id, .. } = item else {
        return Err(unknown());
    };
    let Some(interface) = in_package(name)? else {
        return Err(unknown());
    };
    let exported = match Hook::parse(interface) {
        Some(hook) => Exported::Hook(hook),
        None if interface == SETTINGS => Exported::Settings,
        None => return Err(unknown()),
    };
    let Some(ours) = ours(interface) else {
        return Err(unknown());
    };
    same_interface(&OURS.0.interfaces[ours], resolve, &resolve.interfaces[*id]).map_err(
        |problem| {
            AdmissionRefused::new(
                "export-type",
                match exported {
                    Exported::Hook(hook) => {
                        format!("the hook `{hook}` has the wrong type: {problem}")
                    }
                    Exported::Settings => format!("`{SETTINGS}` has the wrong type: {problem}"),
                },
                "build the plugin against the WIT of this server's version",
            )
        },
    )?;
    Ok(exported)
}

fn same_interface(ours: &Interface, resolve: &Resolve, theirs: &Interface) -> Result<(), String> {
    for (name, function) in &ours.functions {
        let Some(their_function) = theirs.functions.get(name) else {
            return Err(format!("function `{name}` is missing"));
        };
        same_function(function, resolve, their_function)
            .map_err(|problem| format!("function `{name}`: {problem}"))?;
    }
    Ok(())
}

fn same_function(ours: &Function, resolve: &Resolve, theirs: &Function) -> Result<(), String> {
    if !matches!(theirs.kind, FunctionKind::Freestanding) {
        return Err("it is async or a method; hooks are plain functions for now".to_owned());
    }
    if ours.params.len() != theirs.params.len() {
        return Err(format!(
            "{} parameters, expected {}",
            theirs.params.len(),
            ours.params.len()
        ));
    }
    for (our, their) in ours.params.iter().zip(&theirs.params) {
        same_type(our.ty, resolve, their.ty)
            .map_err(|problem| format!("parameter `{}`: {problem}", our.name))?;
    }
    same_option(ours.result, resolve, theirs.result).map_err(|problem| format!("result: {problem}"))
}

fn same_option(ours: Option<Type>, resolve: &Resolve, theirs: Option<Type>) -> Result<(), String> {
    match (ours, theirs) {
        (None, None) => Ok(()),
        (Some(ours), Some(theirs)) => same_type(ours, resolve, theirs),
        (Some(_), None) | (None, Some(_)) => Err("one has a value, the other none".to_owned()),
    }
}

fn same_type(ours: Type, resolve: &Resolve, theirs: Type) -> Result<(), String> {
    let (ours, theirs) = (alias(&OURS.0, ours), alias(resolve, theirs));
    let (Type::Id(our_id), Type::Id(their_id)) = (ours, theirs) else {
        return if ours == theirs {
            Ok(())
        } else {
            Err(format!(
                "{} where {} is expected",
                word(resolve, theirs),
                word(&OURS.0, ours)
            ))
        };
    };
    let (our_kind, their_kind) = (&OURS.0.types[our_id].kind, &resolve.types[their_id].kind);
    let named = |ours: &mut dyn Iterator<Item = (&str, Option<Type>)>,
                 theirs: &mut dyn Iterator<Item = (&str, Option<Type>)>| {
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return Ok(()),
                (Some((our_name, ours)), Some((their_name, theirs))) if our_name == their_name => {
                    same_option(ours, resolve, theirs)
                        .map_err(|problem| format!("`{our_name}`: {problem}"))?;
                }
                (Some((name, _)), _) => return Err(format!("`{name}` is missing or misplaced")),
                (None, Some((name, _))) => return Err(format!("`{name}` is one too many")),
            }
        }
    };
    match (our_kind, their_kind) {
        (TypeDefKind::Record(ours), TypeDefKind::Record(theirs)) => named(
            &mut ours.fields.iter().map(|one| (&*one.name, Some(one.ty))),
            &mut theirs.fields.iter().map(|one| (&*one.name, Some(one.ty))),
        ),
        (TypeDefKind::Variant(ours), TypeDefKind::Variant(theirs)) => named(
            &mut ours.cases.iter().map(|one| (&*one.name, one.ty)),
            &mut theirs.cases.iter().map(|one| (&*one.name, one.ty)),
        ),
        (TypeDefKind::Enum(ours), TypeDefKind::Enum(theirs)) => named(
            &mut ours.cases.iter().map(|one| (&*one.name, None)),
            &mut theirs.cases.iter().map(|one| (&*one.name, None)),
        ),
        (TypeDefKind::Flags(ours), TypeDefKind::Flags(theirs)) => named(
            &mut ours.flags.iter().map(|one| (&*one.name, None)),
            &mut theirs.flags.iter().map(|one| (&*one.name, None)),
        ),
        (TypeDefKind::Option(ours), TypeDefKind::Option(theirs))
        | (TypeDefKind::List(ours), TypeDefKind::List(theirs)) => {
            same_type(*ours, resolve, *theirs)
        }
        (TypeDefKind::Tuple(ours), TypeDefKind::Tuple(theirs)) => {
            if ours.types.len() != theirs.types.len() {
                return Err(format!(
                    "a tuple of {}, expected {}",
                    theirs.types.len(),
                    ours.types.len()
                ));
            }
            let mut types = ours.types.iter().zip(&theirs.types);
            types.try_for_each(|(ours, theirs)| same_type(*ours, resolve, *theirs))
        }
        (TypeDefKind::Result(ours), TypeDefKind::Result(theirs)) => {
            same_option(ours.ok, resolve, theirs.ok)?;
            same_option(ours.err, resolve, theirs.err)
        }
        (ours, theirs) => Err(format!(
            "{} where {} is expected",
            theirs.as_str(),
            ours.as_str()
        )),
    }
}

/// Follows `type a = b`.
fn alias(resolve: &Resolve, mut ty: Type) -> Type {
    while let Type::Id(id) = ty {
        match resolve.types[id].kind {
            TypeDefKind::Type(next) => ty = next,
            _ => break,
        }
    }
    ty
}

fn word(resolve: &Resolve, ty: Type) -> String {
    match ty {
        Type::Id(id) => resolve.types[id].kind.as_str().to_owned(),
        plain => format!("{plain:?}").to_lowercase(),
    }
}

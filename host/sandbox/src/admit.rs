//! Admission: what may be uploaded at all (threat model W1).
//!
//! Cheap checks come first and nothing is compiled: kind, sizes and counts by one scan, then validity with
//! exactly the engine's features, then the contract. A refusal names a stable rule, says what was found and
//! what to do about it. Core modules made by the SDK are turned into components on the way.

mod contract;
mod scan;

use std::panic::catch_unwind;

use sha2::{Digest, Sha256};
use wasmparser::Validator;
use wasmtime::Engine;
use wit_component::ComponentEncoder;

use crate::{
    binding::{Class, Hook},
    compile::ComponentDigest,
    engine,
};

/// Largest upload.
pub const MAX_UPLOAD_BYTES: usize = 4 << 20;

/// A plugin that keeps the rules. Made by [`crate::Sandbox::admit`] alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The component: the upload itself, or what the core module became. Store this; admitting it again
    /// answers the same.
    pub component: Vec<u8>,
    /// SHA-256 of `component`.
    pub digest: ComponentDigest,
    /// What it exports, in the order of [`Hook::ALL`].
    pub hooks: Vec<Hook>,
    /// What it imports, sorted.
    pub imports: Vec<String>,
    /// Whether it says which settings it can use, when it is bound.
    pub checks_settings: bool,
    /// Bytes uploaded.
    pub size: usize,
}

impl Admitted {
    /// Whether its calls may wait for other machines.
    pub fn class(&self) -> Class {
        if self.imports.iter().any(|import| contract::waits(import)) {
            Class::Waiting
        } else {
            Class::Immediate
        }
    }

    /// Whether it imports an interface whose name begins so.
    pub(crate) fn imports(&self, interface: &str) -> bool {
        let mut imports = self.imports.iter();
        imports.any(|import| import.starts_with(interface))
    }
}

/// Why an upload was refused; HTTP 422.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused by rule {rule}: {detail}; {help}")]
pub struct AdmissionRefused {
    /// Stable name of the rule.
    pub rule: &'static str,
    /// What was found.
    pub detail: String,
    /// What to do.
    pub help: String,
}

impl AdmissionRefused {
    pub(crate) fn new(
        rule: &'static str,
        detail: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            rule,
            detail: detail.into(),
            help: help.into(),
        }
    }
}

/// What an upload looks like from its first bytes.
enum Kind {
    Component,
    CoreModule,
}

pub(crate) fn admit(upload: &[u8]) -> Result<Admitted, AdmissionRefused> {
    small_enough("the upload", upload)?;
    let component = match sniff(upload)? {
        Kind::Component => upload.to_vec(),
        Kind::CoreModule => {
            scan::scan(upload)?;
            let component = convert(upload)?;
            // What is stored is admitted again when it is activated.
            small_enough("the component that the upload becomes", &component)?;
            component
        }
    };
    scan::scan(&component)?;
    validate(&component)?;
    let contract = contained("the component's type", || contract::check(&component))?;
    Ok(Admitted {
        digest: Sha256::digest(&component).into(),
        component,
        hooks: contract.hooks,
        imports: contract.imports,
        checks_settings: contract.checks_settings,
        size: upload.len(),
    })
}

fn small_enough(what: &str, bytes: &[u8]) -> Result<(), AdmissionRefused> {
    if bytes.len() <= MAX_UPLOAD_BYTES {
        return Ok(());
    }
    Err(AdmissionRefused::new(
        "upload-size",
        format!(
            "{what} has {} bytes, more than {MAX_UPLOAD_BYTES}",
            bytes.len()
        ),
        "build with `--profile plugin` (optimised for size, stripped) and leave data out of the plugin",
    ))
}

fn sniff(upload: &[u8]) -> Result<Kind, AdmissionRefused> {
    if Engine::detect_precompiled(upload).is_some() || upload.starts_with(b"\x7fELF") {
        return Err(AdmissionRefused::new(
            "native-code",
            "the upload is native code",
            "upload the .wasm file itself; the server compiles it and never takes compiled code from outside",
        ));
    }
    match upload.get(..8) {
        Some(b"\0asm\x0d\0\x01\0") => Ok(Kind::Component),
        Some(b"\0asm\x01\0\0\0") => Ok(Kind::CoreModule),
        _ => Err(AdmissionRefused::new(
            "not-wasm",
            format!(
                "the upload is neither a WebAssembly component nor a core module, but {}",
                looks_like(upload)
            ),
            "upload the .wasm file that `tidegate plugin build` made, as it is",
        )),
    }
}

/// What somebody may have taken for a plugin. Nothing is ever unpacked, so no archive can be a bomb.
fn looks_like(upload: &[u8]) -> &'static str {
    const KINDS: [(&[u8], &str); 8] = [
        (b"\0asm", "WebAssembly of a version that is not known here"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"\x28\xb5\x2f\xfd", "a zstd archive"),
        (b"PK\x03\x04", "a zip archive"),
        (b"(module", "WebAssembly text"),
        (b"(component", "WebAssembly text"),
        (b"MZ", "a program for Windows"),
        (b"#!", "a script"),
    ];
    let known = KINDS.iter().find(|(start, _)| upload.starts_with(start));
    match known {
        Some((_, kind)) => kind,
        None if upload.is_empty() => "empty",
        None => "something else",
    }
}

/// Makes a component of a core module that the SDK made.
fn convert(module: &[u8]) -> Result<Vec<u8>, AdmissionRefused> {
    let facts = scan::module_facts(module)?;
    if facts.imports_wasi_preview1 {
        return Err(AdmissionRefused::new(
            "wasi-preview1",
            "the module imports wasi_snapshot_preview1",
            "build for wasm32-unknown-unknown or wasm32-wasip2, not for wasm32-wasip1",
        ));
    }
    if !facts.has_component_type {
        return Err(AdmissionRefused::new(
            "no-contract",
            "the core module has no component-type section, so it says of no hook",
            "write the plugin with tidegate-sdk, name its hooks in plugin!(…) and build it for wasm32-unknown-unknown",
        ));
    }
    contained("the core module", || {
        ComponentEncoder::default()
            .validate(true)
            .module(module)
            .and_then(|mut encoder| encoder.encode())
            .map_err(|error| {
                AdmissionRefused::new(
                    "conversion",
                    format!("no component can be made of the core module: {error:#}"),
                    "build with the tidegate-sdk of this server's version",
                )
            })
    })
}

/// Validity with the features that the engine has switched on, and no others.
fn validate(component: &[u8]) -> Result<(), AdmissionRefused> {
    Validator::new_with_features(engine::features())
        .validate_all(component)
        .map(drop)
        .map_err(|error| invalid(&error.to_string()))
}

/// A refusal for bytes that are not the WebAssembly we take.
fn invalid(problem: &str) -> AdmissionRefused {
    AdmissionRefused::new(
        "invalid-wasm",
        format!("the upload is not valid: {problem}"),
        "upload the file again; if it stays, build without threads, memory64, exceptions, tail calls and GC",
    )
}

/// The encoder and decoder were written for friendly input: a panic in them is a refusal here.
fn contained<T>(
    what: &str,
    work: impl FnOnce() -> Result<T, AdmissionRefused> + std::panic::UnwindSafe,
) -> Result<T, AdmissionRefused> {
    catch_unwind(work).unwrap_or_else(|_| {
        Err(AdmissionRefused::new(
            "undecodable",
            format!("{what} cannot be understood"),
            "build the plugin with the tidegate-sdk of this server's version",
        ))
    })
}

//! Plugins that keep every rule of admission and are made to be compiled for ever, or with all the memory there is.

use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, SourceMap};

/// A core module with the metadata of a plugin that passes every message, and these functions besides.
///
/// # Panics
/// When the text is no WebAssembly.
pub fn plugin_with(functions: &str) -> Vec<u8> {
    let text = format!(
        "(module (memory (export \"memory\") 1)
           (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
           (func (export \"tidegate:plugin/filtering@0.1.0#filter\")
             (param i32 i32 i32 i32 i32 i32) (result i32) (i32.const 16))
           {functions})"
    );
    let mut module = wat::parse_str(text).expect("the functions are WebAssembly text");
    let mut sources = SourceMap::new();
    sources.push_str("hooks.wit", include_str!("../../wit/hooks.wit"));
    sources.push_str(
        "capabilities.wit",
        include_str!("../../wit/capabilities.wit"),
    );
    sources.push_str("worlds.wit", include_str!("../../wit/worlds.wit"));
    sources.push_str(
        "test.wit",
        "package tidegate:plugin@0.1.0;\nworld test { export filtering; }",
    );
    let group = sources.parse().map_err(|(_, error)| error);
    let mut resolve = Resolve::default();
    let package = resolve
        .push_group(group.expect("the WIT of this tree is right"))
        .expect("the WIT of this tree is whole");
    let world = resolve
        .select_world(&[package], Some("test"))
        .expect("the world is the one above");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .expect("metadata goes into any module");
    module
}

/// Thirty kilobytes that take half a minute and gigabytes: each of many nested loops carries each of many variables.
pub fn deep() -> Vec<u8> {
    const LOCALS: usize = 990;
    const DEPTH: usize = 3_000;
    let steps: String = (1..LOCALS)
        .map(|local| format!("local.get {local} local.get 0 i32.add local.set {local}\n"))
        .collect();
    plugin_with(&format!(
        "(func (param i32) {}\n{}{steps}{})",
        "(local i32)".repeat(LOCALS),
        "loop\n".repeat(DEPTH),
        "local.get 0 br_if 0 end\n".repeat(DEPTH)
    ))
}

//! Plugins that keep every rule of admission and are made to be compiled for ever, or with all the memory there is.

use tidegate_test_contract::embed;

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
    let module = wat::parse_str(text).expect("the functions are WebAssembly text");
    embed(module, "export filtering;")
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

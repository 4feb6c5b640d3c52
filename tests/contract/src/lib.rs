//! Core modules that say what they export and import, as the SDK makes them: with the metadata of a world.

use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, SourceMap};

/// Puts a world of our package into a module, so that it is a plugin: `world` is what stands between its braces.
///
/// # Panics
/// When the world is no WIT.
pub fn embed(module: Vec<u8>, world: &str) -> Vec<u8> {
    embed_beside(
        module,
        &format!("package tidegate:plugin@0.1.0;\nworld test {{\n{world}\n}}"),
    )
}

/// Puts the world `test` of a WIT text into a module; the text may use our package, and holds others if it wants.
///
/// # Panics
/// When the text is no WIT, or has no such world.
pub fn embed_beside(module: Vec<u8>, text: &str) -> Vec<u8> {
    let mut sources = SourceMap::new();
    sources.push_str("hooks.wit", include_str!("../../../wit/hooks.wit"));
    sources.push_str(
        "capabilities.wit",
        include_str!("../../../wit/capabilities.wit"),
    );
    sources.push_str("worlds.wit", include_str!("../../../wit/worlds.wit"));
    put(module, sources, text)
}

/// Puts the world `test` of a WIT text into a module, without our package: for whoever has one of the same name.
///
/// # Panics
/// When the text is no WIT, or has no such world.
pub fn embed_foreign(module: Vec<u8>, text: &str) -> Vec<u8> {
    put(module, SourceMap::new(), text)
}

fn put(mut module: Vec<u8>, mut sources: SourceMap, text: &str) -> Vec<u8> {
    sources.push_str("test.wit", text);
    let group = sources.parse().map_err(|(_, error)| error);
    let mut resolve = Resolve::default();
    let package = resolve
        .push_group(group.expect("the WIT is right"))
        .expect("the WIT is whole");
    let world = resolve
        .select_world(&[package], Some("test"))
        .expect("the world is there");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .expect("metadata goes into any module");
    module
}

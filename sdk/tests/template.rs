//! What `tidegate plugin new` writes works: its source is compiled and its tests run here.

#[path = "../template/src/lib.rs"]
mod template;

/// Manifest and guide of a new plugin, whose only placeholder is the name.
const WITH_PLACEHOLDERS: [&str; 2] = [
    include_str!("../template/Cargo.toml.in"),
    include_str!("../template/README.md.in"),
];

#[test]
fn name_is_the_only_placeholder() {
    for text in WITH_PLACEHOLDERS {
        assert!(text.contains("{{name}}"));
        assert!(!text.replace("{{name}}", "shout").contains("{{"));
    }
}

#[test]
fn link_arguments_are_those_of_the_repository() {
    let template = include_str!("../template/.cargo/config.toml");
    let repository = include_str!("../../.cargo/config.toml");
    let rustflags = |text: &'static str| {
        let mut lines = text.lines();
        lines.find(|line| line.starts_with("rustflags")).unwrap()
    };
    assert_eq!(rustflags(template), rustflags(repository));
}

//! The tables in `docs/codes.md` are those of the registry.

use tidegate_protocol::{ApiErrorCode, DisconnectCode, ErrorCode, UnsubscribeCode};

const DOCUMENT: &str = include_str!("../../../docs/codes.md");

/// Rows of the table under `heading`, as text.
fn documented(heading: &str) -> Vec<String> {
    let section = DOCUMENT
        .split("\n## ")
        .find(|section| section.starts_with(heading))
        .expect("the heading is in docs/codes.md");
    section
        .lines()
        .filter(|line| {
            line.starts_with("| ") && line[2..].starts_with(|c: char| c.is_ascii_digit())
        })
        .map(str::to_owned)
        .collect()
}

fn row(code: u32, text: &str, last: &str) -> String {
    format!("| {code} | {text} | {last} |")
}

fn yes(answer: bool) -> &'static str {
    if answer { "yes" } else { "no" }
}

#[test]
fn documented_errors_are_the_registry() {
    let registry = ErrorCode::ALL
        .iter()
        .map(|code| row(code.code(), code.text(), yes(code.is_temporary())));
    assert_eq!(
        documented("Errors in replies"),
        registry.collect::<Vec<_>>()
    );
}

#[test]
fn documented_disconnects_are_the_registry() {
    let registry = DisconnectCode::ALL
        .iter()
        .map(|code| row(code.code(), code.text(), yes(code.is_reconnect())));
    assert_eq!(documented("Disconnects"), registry.collect::<Vec<_>>());
}

#[test]
fn documented_unsubscribes_are_the_registry() {
    let registry = UnsubscribeCode::ALL
        .iter()
        .map(|code| row(code.code(), code.text(), yes(code.is_resubscribe())));
    assert_eq!(documented("Unsubscribes"), registry.collect::<Vec<_>>());
}

#[test]
fn documented_api_errors_are_the_registry() {
    let registry = ApiErrorCode::ALL
        .iter()
        .map(|code| row(code.code(), code.text(), &code.http_status().to_string()));
    assert_eq!(
        documented("Errors of the server API"),
        registry.collect::<Vec<_>>()
    );
}

#[test]
fn every_code_is_found_by_its_number_and_lies_in_its_range() {
    for &code in ErrorCode::ALL {
        assert_eq!(ErrorCode::from_code(code.code()), Some(code));
        assert!((100..400).contains(&code.code()));
    }
    for &code in DisconnectCode::ALL {
        assert_eq!(DisconnectCode::from_code(code.code()), Some(code));
        assert_eq!(code.is_reconnect(), code.code() < 3500);
        assert!(code.text().len() <= 32 && code.text().is_ascii());
    }
    assert_eq!(ErrorCode::from_code(99), None);
}

//! Finding e-mail addresses.

use std::ops::Range;

/// Longer parts are not those of an address; looking no further keeps the search linear.
const MAX_LOCAL_BYTES: usize = 64;
const MAX_DOMAIN_BYTES: usize = 255;

/// The places of all addresses.
pub(crate) fn find(text: &str) -> impl Iterator<Item = Range<usize>> {
    let bytes = text.as_bytes();
    let signs = bytes.iter().enumerate();
    signs
        .filter(|(_, byte)| **byte == b'@')
        .filter_map(|(at, _)| address_around(bytes, at))
}

fn address_around(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let local = bytes[..at].iter().rev().take(MAX_LOCAL_BYTES);
    let local = local.take_while(|byte| is_local(**byte)).count();
    let domain = bytes[at + 1..].iter().take(MAX_DOMAIN_BYTES);
    let domain = domain.take_while(|byte| is_domain(**byte)).count();
    if local == 0 {
        return None;
    }

    // A full stop or a dash after the address belongs to the sentence.
    let mut end = at + 1 + domain;
    while end > at + 1 && !bytes[end - 1].is_ascii_alphanumeric() {
        end -= 1;
    }
    let domain = &bytes[at + 1..end];
    let last_dot = domain.iter().rposition(|byte| *byte == b'.')?;
    let top = &domain[last_dot + 1..];
    let is_top = top.len() >= 2 && top.iter().any(u8::is_ascii_alphabetic);
    (last_dot > 0 && is_top).then_some(at - local..end)
}

fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._%+-'".contains(&byte)
}

fn is_domain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let found: Vec<&str> = find(text).map(|place| &text[place]).collect();
        assert_eq!(found, expected, "in {text:?}");
    }

    #[test]
    fn addresses_are_found_with_all_their_parts() {
        check(
            "write to ann.b+x@mail.example.org.",
            &["ann.b+x@mail.example.org"],
        );
        check(
            "<ann@example.org>,bob@example.co",
            &["ann@example.org", "bob@example.co"],
        );
        check("größe@example.org", &["e@example.org"]);
    }

    #[test]
    fn what_only_looks_like_one_is_left_alone() {
        check("@ann and ann@ and ann@home and @.org", &[]);
        check("3@4.5 a@b.c a@.de", &[]);
    }

    #[test]
    fn many_signs_are_searched_in_linear_time() {
        check(&"@".repeat(100_000), &[]);
        check(&"a".repeat(100_000), &[]);
    }
}

use serde_json::value::RawValue;

use super::*;

fn find<'d>(document: &'d Document, data: &'d str, pointer: &str) -> Option<Found<'d>> {
    document.find(data.as_bytes(), Pointer::parse(pointer).unwrap())
}

#[track_caller]
fn with<T>(data: &str, pointer: &str, read: impl FnOnce(Option<Found<'_>>) -> T) -> T {
    let document = Document::parse(data.as_bytes()).unwrap();
    read(find(&document, data, pointer))
}

#[track_caller]
fn text(data: &str, pointer: &str) -> Option<String> {
    with(data, pointer, |found| found?.text())
}

#[test]
fn it_accepts_and_refuses_what_serde_json_does() {
    for text in [
        "",
        " ",
        "{",
        "}",
        "[",
        "]",
        "{}",
        "[]",
        "[,]",
        "[1,]",
        "[1 2]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{\"a\":1 \"b\":2}",
        "{1:2}",
        "nul",
        "null",
        "nulls",
        "true",
        "false",
        "tru",
        "\"",
        "\"a",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\\u1234\"",
        "\"\u{1}\"",
        "\"\\ud800\"",
        "0",
        "-0",
        "-",
        "01",
        "1.",
        ".5",
        "1.5",
        "1e",
        "1e5",
        "1E+5",
        "1e-",
        "+1",
        "1.5.5",
        "--1",
        "0x1",
        "NaN",
        "Infinity",
        " { } ",
        "\t[\r\n1 ]",
        "\u{feff}{}",
        "{}x",
        "{} {}",
        "[1]]",
        "\"é\"",
        "// a\n1",
        "{\"a\":[{\"b\":null}]}",
        "[\"\\/\\b\\f\\n\\r\\t\"]",
        "1e400",
        "123456789012345678901234567890",
        "'a'",
        "[1,[2,[3]]]",
        "{\"\":{}}",
        "{\"a\":1,\"a\":2}",
    ] {
        let ours = Document::parse(text.as_bytes()).is_ok();
        let theirs = serde_json::from_str::<&RawValue>(text).is_ok();
        assert_eq!(ours, theirs, "{text:?}");
    }
}

#[test]
fn bytes_that_are_no_text_are_not_json() {
    assert_eq!(
        Document::parse(b"\"a\xff\"").unwrap_err(),
        NotJson { at: 2 }
    );
    // A surrogate in UTF-8.
    assert!(Document::parse(b"\"\xed\xa0\x80\"").is_err());
}

#[test]
fn w7_nesting_is_bounded() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(Document::parse(nested(32).as_bytes()).is_ok());
    assert!(Document::parse(nested(33).as_bytes()).is_err());
    assert!(Document::parse("[".repeat(1_000_000).as_bytes()).is_err());
}

#[test]
fn w7_a_document_is_at_most_eight_times_its_text() {
    let dense = format!("[{}0]", "0,".repeat(10_000));
    let document = Document::parse(dense.as_bytes()).unwrap();
    assert_eq!(size_of::<Node>(), 16);
    assert!(document.nodes.len() <= dense.len() / 2 + 1);
}

#[test]
fn pointers_lead_through_objects_and_arrays() {
    let data = r#"{"a":{"b":[10,{"c":"deep"}],"":"empty"},"x/y":"slash","m~n":"tilde","0":"zero"}"#;
    assert_eq!(text(data, "/a/b/1/c").as_deref(), Some("deep"));
    assert_eq!(text(data, "/a/").as_deref(), Some("empty"));
    assert_eq!(text(data, "/x~1y").as_deref(), Some("slash"));
    assert_eq!(text(data, "/m~0n").as_deref(), Some("tilde"));
    assert_eq!(text(data, "/0").as_deref(), Some("zero"));
    for absent in [
        "/a/b/2",
        "/a/b/01",
        "/a/b/-",
        "/a/b/x",
        "/a/b/0/x",
        "/b",
        "/a/b/4294967296",
    ] {
        assert!(with(data, absent, |found| found.is_none()), "{absent}");
    }
    assert_eq!(with(data, "", |found| found.unwrap().kind()), Kind::Object);
    assert_eq!(with("5", "", |found| found.unwrap().integer()), Some(5));
}

#[test]
fn a_name_counts_however_it_is_written_and_the_last_of_two_counts() {
    assert_eq!(
        text(r#"{"\u0074ype":"hidden"}"#, "/type").as_deref(),
        Some("hidden")
    );
    assert_eq!(
        text(r#"{"type":"a","type":"b"}"#, "/type").as_deref(),
        Some("b")
    );
    assert_eq!(
        text(r#"{"type":"a","\u0074ype":"b"}"#, "/type").as_deref(),
        Some("b")
    );
    assert_eq!(text(r#"{"types":"a","typ":"b"}"#, "/type"), None);
}

#[test]
fn texts_are_decoded() {
    for (written, expected) in [
        (r#""plain é""#, "plain é"),
        (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
        (r#""\u00e9\ud83d\ude00""#, "é😀"),
        (r#""a\ud800b""#, "a\u{fffd}b"),
        (r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}"),
        (r#""\ud83d\u0041""#, "\u{fffd}A"),
        (r#""""#, ""),
    ] {
        assert_eq!(text(written, "").as_deref(), Some(expected), "{written}");
    }
}

#[test]
fn numbers_are_read_exactly_or_not_at_all() {
    let integer = |data| with(data, "", |found| found.unwrap().integer());
    assert_eq!(integer("9223372036854775807"), Some(i64::MAX));
    assert_eq!(integer("9223372036854775808"), None);
    assert_eq!(integer("-0"), Some(0));
    assert_eq!(integer("1.20e1"), Some(12));
    assert_eq!(integer("1.5"), None);
    assert_eq!(integer("1e30"), None);
    assert_eq!(integer("\"1\""), None);
    let number = |data| with(data, "", |found| found.unwrap().number());
    assert_eq!(number("-1.5e3"), Some(-1500.0));
    assert_eq!(number("1e400"), Some(f64::INFINITY));
    assert_eq!(number("true"), None);
}

#[test]
fn lengths_and_raw_text() {
    let data = r#"{"list":[1,[2,3],{"a":[4]}],"none":[],"object":{"a":{"b":1},"c":[2]}}"#;
    let length = |pointer| with(data, pointer, |found| found.unwrap().length());
    assert_eq!(length("/list"), Some(3));
    assert_eq!(length("/none"), Some(0));
    assert_eq!(length("/object"), Some(2));
    assert_eq!(length("/list/0"), None);
    let document = Document::parse(b" { \"a\" : [ 1 ,2] } ").unwrap();
    let data = " { \"a\" : [ 1 ,2] } ";
    assert_eq!(find(&document, data, "/a").unwrap().raw(), b"[ 1 ,2]");
    assert_eq!(
        find(&document, data, "").unwrap().raw(),
        b"{ \"a\" : [ 1 ,2] }"
    );
}

#[test]
fn pointers_that_are_none_are_refused() {
    for (text, error) in [
        ("a", BadPointer::NoSlash),
        ("/~", BadPointer::BadEscape),
        ("/~2", BadPointer::BadEscape),
        ("/a~", BadPointer::BadEscape),
    ] {
        assert_eq!(Pointer::parse(text).unwrap_err(), error, "{text}");
    }
    assert!(Pointer::parse(&"/".repeat(256)).is_ok());
    assert_eq!(
        Pointer::parse(&"/".repeat(257)).unwrap_err(),
        BadPointer::TooLong
    );
}

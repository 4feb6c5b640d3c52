use super::*;

fn leaf(key: &str, cmp: &str, val: &str) -> FilterNode {
    FilterNode {
        key: key.to_owned(),
        cmp: cmp.to_owned(),
        val: val.to_owned(),
        ..FilterNode::default()
    }
}

fn list(key: &str, cmp: &str, vals: &[&str]) -> FilterNode {
    FilterNode {
        vals: vals.iter().map(|&value| value.to_owned()).collect(),
        ..leaf(key, cmp, "")
    }
}

fn group(op: &str, nodes: Vec<FilterNode>) -> FilterNode {
    FilterNode {
        op: op.to_owned(),
        nodes,
        ..FilterNode::default()
    }
}

fn tags(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

#[track_caller]
fn check(node: &FilterNode, pairs: &[(&str, &str)], expected: bool) {
    let filter = Filter::parse(node).unwrap();
    assert_eq!(filter.matches(&tags(pairs)), expected, "{node:?} {pairs:?}");
}

#[test]
fn each_comparison_says_what_the_protocol_says() {
    let cases = [
        (leaf("k", "eq", "a"), [true, false, false]),
        (leaf("k", "neq", "a"), [false, true, true]),
        (list("k", "in", &["a", "c"]), [true, false, false]),
        (list("k", "nin", &["a", "c"]), [false, true, true]),
        (list("k", "in", &["", "c"]), [false, false, true]),
        (list("k", "nin", &["", "c"]), [true, true, false]),
        (leaf("k", "ex", ""), [true, true, false]),
        (leaf("k", "nex", ""), [false, false, true]),
        (leaf("k", "sw", "a"), [true, false, false]),
        (leaf("k", "ew", "b"), [false, true, false]),
        (leaf("k", "ct", "b"), [false, true, false]),
    ];
    for (node, [a, bb, missing]) in cases {
        check(&node, &[("k", "a")], a);
        check(&node, &[("k", "bb")], bb);
        check(&node, &[("other", "a")], missing);
    }
}

#[test]
fn numbers_compare_by_value_with_any_precision() {
    // (tag, value, ordering)
    let cases = [
        ("1", "1.0", Ordering::Equal),
        ("0", "-0.00", Ordering::Equal),
        ("+2", "2", Ordering::Equal),
        ("1e3", "1000", Ordering::Equal),
        ("12.5E-1", "1.25", Ordering::Equal),
        ("5.", ".5", Ordering::Greater),
        ("9", "10", Ordering::Less),
        ("-9", "-10", Ordering::Greater),
        ("-1", "1", Ordering::Less),
        ("0.009", "0.01", Ordering::Less),
        ("007", "7", Ordering::Equal),
        (
            "100000000000000000000000000000001",
            "100000000000000000000000000000000",
            Ordering::Greater,
        ),
        ("0.1000000000000000000000001", "0.1", Ordering::Greater),
        ("1e2147483647", "1e2147483646", Ordering::Greater),
    ];
    for (tag, value, ordering) in cases {
        check(&leaf("n", "lt", value), &[("n", tag)], ordering.is_lt());
        check(&leaf("n", "lte", value), &[("n", tag)], ordering.is_le());
        check(&leaf("n", "gt", value), &[("n", tag)], ordering.is_gt());
        check(&leaf("n", "gte", value), &[("n", tag)], ordering.is_ge());
    }
}

#[test]
fn what_is_not_a_number_compares_false_both_ways() {
    for bad in [
        "",
        "x",
        ".",
        "-",
        "1e",
        "1e99999999999",
        "1.2.3",
        "0x1",
        "NaN",
        "1 ",
        "é",
    ] {
        for cmp in ["lt", "lte", "gt", "gte"] {
            check(&leaf("n", cmp, "1"), &[("n", bad)], false);
            if !bad.is_empty() {
                check(&leaf("n", cmp, bad), &[("n", "1")], false);
            }
        }
    }
    check(&leaf("n", "lt", "1"), &[], false);
}

#[test]
fn groups_combine() {
    let (a, b) = (leaf("k", "eq", "a"), leaf("l", "eq", "b"));
    let both = [("k", "a"), ("l", "b")];
    check(&group("and", vec![a.clone(), b.clone()]), &both, true);
    check(&group("and", vec![a.clone(), b.clone()]), &both[..1], false);
    check(&group("or", vec![a.clone(), b.clone()]), &both[..1], true);
    check(&group("or", vec![a.clone(), b]), &[], false);
    check(&group("not", vec![a]), &[], true);
}

#[test]
fn invalid_expressions_are_refused() {
    let a = leaf("k", "eq", "a");
    for (node, error) in [
        (FilterNode::default(), FilterError::UnknownComparison),
        (leaf("k", "like", "a"), FilterError::UnknownComparison),
        (leaf("", "eq", "a"), FilterError::MissingKey),
        (leaf("k", "eq", ""), FilterError::NeedsValue),
        (list("k", "eq", &["a"]), FilterError::NeedsValue),
        (leaf("k", "in", "a"), FilterError::NeedsValues),
        (leaf("k", "ex", "a"), FilterError::TakesNoValue),
        (group("xor", vec![a.clone()]), FilterError::UnknownOperation),
        (group("and", vec![]), FilterError::WrongNumberOfNodes),
        (group("or", vec![]), FilterError::WrongNumberOfNodes),
        (
            group("not", vec![a.clone(), a]),
            FilterError::WrongNumberOfNodes,
        ),
    ] {
        assert_eq!(Filter::parse(&node), Err(error), "{node:?}");
    }
    assert!(Filter::parse(&leaf("", "ex", "")).is_ok());
}

#[test]
fn c4_an_expression_is_bounded_in_bytes_nodes_and_depth() {
    let many = |count| group("and", vec![leaf("k", "eq", "a"); count]);
    assert!(Filter::parse(&many(63)).is_ok());
    assert_eq!(Filter::parse(&many(64)), Err(FilterError::TooManyNodes));

    let long = leaf("k", "eq", &"a".repeat(1_100));
    assert_eq!(Filter::parse(&long), Err(FilterError::TooLarge));

    let empty_values = list("k", "in", &[""; 1_000]);
    assert!(Filter::parse(&empty_values).is_err());

    let deep =
        |depth: usize| (1..depth).fold(leaf("k", "ex", ""), |inner, _| group("not", vec![inner]));
    assert!(Filter::parse(&deep(MAX_DEPTH)).is_ok());
    assert_eq!(
        Filter::parse(&deep(MAX_DEPTH + 1)),
        Err(FilterError::TooDeep)
    );
}

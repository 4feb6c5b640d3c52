//! Tags filters: predicates on the tags of a publication.
//!
//! Pure. [`Filter::parse`] checks an expression once, so that evaluation cannot fail: its steps are bounded by
//! the expression, not by what is published. Owns no delivery rules; a publication that is filtered out still
//! advances positions, which is the session's business.

use std::{cmp::Ordering, collections::BTreeMap};

use crate::{messages::FilterNode, schema::Schema};

/// Most bytes of an expression, measured as Protobuf in either codec.
pub const MAX_EXPRESSION_BYTES: usize = 1024;
/// Most nodes in an expression.
pub const MAX_NODES: usize = 64;
/// Most comparisons that one evaluation may come to.
pub const MAX_STEPS: usize = 1_000;
/// Most nodes inside each other; decoding allows about as many.
pub const MAX_DEPTH: usize = 16;

/// Why an expression is refused; error 107 to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("the filter is larger than {MAX_EXPRESSION_BYTES} bytes")]
    TooLarge,
    #[error("the filter has more than {MAX_NODES} nodes")]
    TooManyNodes,
    #[error("the filter needs more than {MAX_STEPS} steps")]
    TooManySteps,
    #[error("the filter nests deeper than {MAX_DEPTH} nodes")]
    TooDeep,
    #[error("the filter has an unknown op; use and, or, not, or leave it out")]
    UnknownOperation,
    #[error("the filter has an unknown or missing cmp")]
    UnknownComparison,
    #[error("a comparison in the filter needs a key")]
    MissingKey,
    #[error("a comparison in the filter needs val and no vals")]
    NeedsValue,
    #[error("a comparison in the filter needs vals and no val")]
    NeedsValues,
    #[error("an existence test in the filter takes neither val nor vals")]
    TakesNoValue,
    #[error("and, or need one node or more, not exactly one")]
    WrongNumberOfNodes,
}

/// A valid expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    root: Node,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    All(Box<[Node]>),
    Any(Box<[Node]>),
    Not(Box<Node>),
    Compare { key: Box<str>, test: Test },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Equals(Box<str>),
    Differs(Box<str>),
    OneOf(Box<[Box<str>]>),
    NoneOf(Box<[Box<str>]>),
    Exists,
    Missing,
    StartsWith(Box<str>),
    EndsWith(Box<str>),
    Contains(Box<str>),
    /// A decimal number and the orderings of (tag, number) that are true.
    Number(Box<str>, NumberTest),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NumberTest {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What an expression has used up of its limits.
#[derive(Debug, Default)]
struct Budget {
    nodes: usize,
    steps: usize,
}

impl Filter {
    /// Checks an expression.
    ///
    /// # Errors
    /// It breaks a rule or a limit.
    pub fn parse(node: &FilterNode) -> Result<Self, FilterError> {
        // Depth first: measuring recurses too.
        check_depth(node, MAX_DEPTH)?;
        if node.protobuf_len() > MAX_EXPRESSION_BYTES {
            return Err(FilterError::TooLarge);
        }
        let root = Node::parse(node, &mut Budget::default())?;
        Ok(Self { root })
    }

    /// Whether a publication with these tags passes.
    pub fn matches(&self, tags: &BTreeMap<String, String>) -> bool {
        self.root.matches(tags)
    }
}

fn check_depth(node: &FilterNode, depth_left: usize) -> Result<(), FilterError> {
    let depth_left = depth_left.checked_sub(1).ok_or(FilterError::TooDeep)?;
    node.nodes
        .iter()
        .try_for_each(|inner| check_depth(inner, depth_left))
}

impl Node {
    fn parse(node: &FilterNode, budget: &mut Budget) -> Result<Self, FilterError> {
        budget.nodes += 1;
        budget.steps += 1 + node.vals.len();
        if budget.nodes > MAX_NODES {
            return Err(FilterError::TooManyNodes);
        }
        if budget.steps > MAX_STEPS {
            return Err(FilterError::TooManySteps);
        }
        let inner = |budget: &mut Budget| -> Result<Box<[Self]>, FilterError> {
            node.nodes
                .iter()
                .map(|inner| Self::parse(inner, budget))
                .collect()
        };
        match node.op.as_str() {
            "" => Ok(Self::Compare {
                test: Test::parse(node)?,
                key: node.key.as_str().into(),
            }),
            "and" if !node.nodes.is_empty() => Ok(Self::All(inner(budget)?)),
            "or" if !node.nodes.is_empty() => Ok(Self::Any(inner(budget)?)),
            "not" => match node.nodes.as_slice() {
                [only] => Ok(Self::Not(Box::new(Self::parse(only, budget)?))),
                _ => Err(FilterError::WrongNumberOfNodes),
            },
            "and" | "or" => Err(FilterError::WrongNumberOfNodes),
            _ => Err(FilterError::UnknownOperation),
        }
    }

    fn matches(&self, tags: &BTreeMap<String, String>) -> bool {
        match self {
            Self::All(nodes) => nodes.iter().all(|node| node.matches(tags)),
            Self::Any(nodes) => nodes.iter().any(|node| node.matches(tags)),
            Self::Not(node) => !node.matches(tags),
            Self::Compare { key, test } => test.holds(tags.get(&**key).map(String::as_str)),
        }
    }
}

impl Test {
    fn parse(node: &FilterNode) -> Result<Self, FilterError> {
        let value = || -> Result<Box<str>, FilterError> {
            if node.val.is_empty() || !node.vals.is_empty() {
                return Err(FilterError::NeedsValue);
            }
            Ok(node.val.as_str().into())
        };
        let values = || -> Result<Box<[Box<str>]>, FilterError> {
            if node.vals.is_empty() || !node.val.is_empty() {
                return Err(FilterError::NeedsValues);
            }
            Ok(node
                .vals
                .iter()
                .map(|value| value.as_str().into())
                .collect())
        };
        let existence = |test: Self| {
            if node.val.is_empty() && node.vals.is_empty() {
                Ok(test)
            } else {
                Err(FilterError::TakesNoValue)
            }
        };
        let test = match node.cmp.as_str() {
            "ex" => return existence(Self::Exists),
            "nex" => return existence(Self::Missing),
            "eq" => Self::Equals(value()?),
            "neq" => Self::Differs(value()?),
            "in" => Self::OneOf(values()?),
            "nin" => Self::NoneOf(values()?),
            "sw" => Self::StartsWith(value()?),
            "ew" => Self::EndsWith(value()?),
            "ct" => Self::Contains(value()?),
            "lt" => Self::Number(value()?, NumberTest::Less),
            "lte" => Self::Number(value()?, NumberTest::LessOrEqual),
            "gt" => Self::Number(value()?, NumberTest::Greater),
            "gte" => Self::Number(value()?, NumberTest::GreaterOrEqual),
            _ => return Err(FilterError::UnknownComparison),
        };
        if node.key.is_empty() {
            return Err(FilterError::MissingKey);
        }
        Ok(test)
    }

    fn holds(&self, tag: Option<&str>) -> bool {
        let text = tag.unwrap_or_default();
        match self {
            Self::Equals(value) => tag == Some(&**value),
            Self::Differs(value) => tag != Some(&**value),
            Self::OneOf(values) => values.iter().any(|value| **value == *text),
            Self::NoneOf(values) => values.iter().all(|value| **value != *text),
            Self::Exists => tag.is_some(),
            Self::Missing => tag.is_none(),
            // The value is never empty, so a missing tag passes none of these.
            Self::StartsWith(value) => text.starts_with(&**value),
            Self::EndsWith(value) => text.ends_with(&**value),
            Self::Contains(value) => text.contains(&**value),
            Self::Number(value, test) => {
                let numbers = Decimal::parse(text).zip(Decimal::parse(value));
                numbers.is_some_and(|(tag, value)| test.accepts(tag.compare(&value)))
            }
        }
    }
}

impl NumberTest {
    fn accepts(self, ordering: Ordering) -> bool {
        match self {
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

/// A decimal number of any precision, compared without being computed.
#[derive(Debug, Clone, Copy)]
struct Decimal<'a> {
    is_negative: bool,
    /// Digits before and after the point, without leading zeros; both empty for zero.
    whole: &'a [u8],
    fraction: &'a [u8],
    /// Power of ten just above the first digit.
    magnitude: i64,
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (is_negative, text) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (digits, exponent) = match text.split_once(['e', 'E']) {
            Some((digits, exponent)) => (digits, i64::from(exponent.parse::<i32>().ok()?)),
            None => (text, 0),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if digits.len() <= usize::from(digits.contains('.'))
            || !are_digits(whole)
            || !are_digits(fraction)
        {
            return None;
        }
        let whole = whole.trim_start_matches('0');
        let trimmed = match whole {
            "" => fraction.trim_start_matches('0'),
            _ => fraction,
        };
        let magnitude = if whole.is_empty() {
            -i64::try_from(fraction.len() - trimmed.len()).ok()?
        } else {
            i64::try_from(whole.len()).ok()?
        };
        Some(Self {
            is_negative,
            whole: whole.as_bytes(),
            fraction: trimmed.as_bytes(),
            magnitude: magnitude + exponent,
        })
    }

    fn is_zero(&self) -> bool {
        self.whole.is_empty() && self.fraction.is_empty()
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (self.sign(), other.sign()) {
            (-1, -1) => other.compare_size(self),
            (1, 1) => self.compare_size(other),
            (mine, theirs) => mine.cmp(&theirs),
        }
    }

    fn sign(&self) -> i8 {
        match (self.is_zero(), self.is_negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }

    /// Compares sizes, neither being zero: first digits stand at the same place, so they decide one by one.
    fn compare_size(&self, other: &Self) -> Ordering {
        let len = |number: &Self| number.whole.len() + number.fraction.len();
        let longest = len(self).max(len(other));
        self.magnitude
            .cmp(&other.magnitude)
            .then_with(|| self.digits(longest).cmp(other.digits(longest)))
    }

    /// The first `len` digits, zeros following the last.
    fn digits(&self, len: usize) -> impl Iterator<Item = u8> + use<'a> {
        let digits = self.whole.iter().chain(self.fraction).copied();
        digits.chain(std::iter::repeat(b'0')).take(len)
    }
}

#[cfg(test)]
mod tests;

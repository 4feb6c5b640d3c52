use proptest::prelude::*;

use super::*;
use crate::{
    binding::Hook,
    logs::{LogCall, LogLevel, Speaker},
};

fn line(text: &str, level: LogLevel) -> Arc<LogLine> {
    Arc::new(LogLine {
        at_millis: 0,
        level,
        speaker: Speaker::Plugin,
        message: text.into(),
        call: Arc::new(LogCall::outside("p".into(), 1, Hook::Filtering)),
    })
}

/// What a reader is shown: the text of a line, or how many are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shown {
    Line(u64, String),
    Missing(u64),
}

fn shown(items: Vec<LogItem>) -> Vec<Shown> {
    let show = |item| match item {
        LogItem::Line { number, line } => Shown::Line(number, line.message.to_string()),
        LogItem::Dropped { count, .. } => Shown::Missing(count),
    };
    items.into_iter().map(show).collect()
}

fn read_all(ring: &Ring, cursor: &mut u64) -> Vec<Shown> {
    shown(ring.read(cursor, &LogFilter::default(), usize::MAX))
}

#[test]
fn a_gap_is_told_between_the_lines_where_it_was() {
    let mut ring = Ring::default();
    ring.push(line("one", LogLevel::Info));
    assert!(ring.skip());
    assert!(!ring.skip());
    ring.push(line("four", LogLevel::Info));
    assert!(ring.skip());
    let mut cursor = 1;
    assert_eq!(
        read_all(&ring, &mut cursor),
        [
            Shown::Line(1, "one".into()),
            Shown::Missing(2),
            Shown::Line(4, "four".into())
        ]
    );
    assert_eq!((ring.trailing_gap(cursor), cursor), (1, 5));
    assert_eq!(ring.trailing_gap(6), 0);
}

#[test]
fn a_slow_reader_is_told_how_many_lines_it_missed() {
    let mut ring = Ring::default();
    for n in 0..LINES + 7 {
        ring.push(line(&n.to_string(), LogLevel::Info));
    }
    let mut cursor = 3;
    let items = ring.read(&mut cursor, &LogFilter::default(), 2);
    assert!(
        matches!(
            items[0],
            LogItem::Dropped {
                count: 5,
                why: Loss::Overrun
            }
        ),
        "{items:?}"
    );
    assert_eq!(shown(items)[1], Shown::Line(8, "7".into()));
}

#[test]
fn the_last_lines_that_match_are_found_from_the_end() {
    let mut ring = Ring::default();
    for n in 1..=10 {
        let level = if n % 2 == 0 {
            LogLevel::Warn
        } else {
            LogLevel::Info
        };
        ring.push(line(&n.to_string(), level));
    }
    let filter = LogFilter {
        level: LogLevel::Warn,
        ..LogFilter::default()
    };
    let mut cursor = ring.begin(&filter, 2);
    let got = shown(ring.read(&mut cursor, &filter, usize::MAX));
    assert_eq!(
        got,
        [Shown::Line(8, "8".into()), Shown::Line(10, "10".into())]
    );
    assert_eq!(ring.begin(&filter, 99), 1);
    assert_eq!(ring.begin(&filter, 0), 11);
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize),
    Skip,
    Read(usize),
    Settle,
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..1_024_usize).prop_map(Step::Push),
        4 => Just(Step::Skip),
        3 => (1..40_usize).prop_map(Step::Read),
        1 => Just(Step::Settle),
        1 => Just(Step::Clear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever happens between reads, a reader accounts for each line exactly once and in order.
    #[test]
    fn every_line_is_shown_or_counted_once_in_order_and_the_bounds_hold(
        steps in prop::collection::vec(step(), 1..4_000)
    ) {
        let mut ring = Ring::default();
        let mut cursor = 1;
        let (mut asked, mut accounted) = (0, 0);
        let mut take = |items: Vec<Shown>| -> Result<(), TestCaseError> {
            for item in items {
                match item {
                    Shown::Line(number, text) => {
                        accounted += 1;
                        prop_assert_eq!(number, accounted);
                        prop_assert_eq!(text.trim_start_matches('x'), number.to_string());
                    }
                    Shown::Missing(count) => {
                        prop_assert!(count > 0);
                        accounted += count;
                    }
                }
            }
            Ok(())
        };
        for step in steps {
            match step {
                Step::Push(len) => {
                    asked += 1;
                    let text = format!("{}{asked}", "x".repeat(len));
                    ring.push(line(&text, LogLevel::Info));
                }
                Step::Skip => {
                    asked += 1;
                    ring.skip();
                }
                Step::Read(most) => take(shown(ring.read(&mut cursor, &LogFilter::default(), most)))?,
                Step::Settle => {
                    take(read_all(&ring, &mut cursor))?;
                    let gap = ring.trailing_gap(cursor);
                    if gap > 0 {
                        take(vec![Shown::Missing(gap)])?;
                    }
                    cursor = ring.next();
                }
                Step::Clear => ring.clear(),
            }
            prop_assert!(ring.len() <= LINES && ring.bytes() <= BYTES);
            let costs: usize = ring.lines.iter().map(|kept| kept.line.cost()).sum();
            prop_assert_eq!(ring.bytes(), costs);
        }
        take(read_all(&ring, &mut cursor))?;
        let gap = ring.trailing_gap(cursor);
        prop_assert_eq!(accounted + gap, asked);
    }
}

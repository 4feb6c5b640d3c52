use std::time::Duration;

use super::{ring::BYTES, *};

fn app() -> AppId {
    AppId::default_app()
}

fn said(texts: &[&str]) -> Vec<Said> {
    let line = |text: &&str| match *text {
        "" => Said::Dropped,
        text => Said::Line {
            at_millis: 0,
            level: LogLevel::Info,
            speaker: Speaker::Plugin,
            message: text.into(),
        },
    };
    texts.iter().map(line).collect()
}

fn call(plugin: &str) -> Arc<LogCall> {
    Arc::new(LogCall::outside(plugin.into(), 1, Hook::Filtering))
}

/// Lines as their text, gaps as their length.
fn texts(items: &[LogItem]) -> Vec<String> {
    let text = |item: &LogItem| match item {
        LogItem::Line { line, .. } => line.message.to_string(),
        LogItem::Dropped { count, .. } => format!("-{count}"),
    };
    items.iter().map(text).collect()
}

#[test]
fn lines_are_of_their_app_and_plugin_alone() {
    let logs = Logs::new(Arc::default());
    let other = AppId::parse("other").unwrap();
    logs.write(&logs.of(&app(), "p"), &call("p"), said(&["mine"]));
    let recent =
        |app: &AppId, plugin: &str| texts(&logs.of(app, plugin).recent(&LogFilter::default(), 9));
    assert_eq!(recent(&app(), "p"), ["mine"]);
    assert!(recent(&other, "p").is_empty());
    assert!(recent(&app(), "q").is_empty());
}

#[test]
fn n4_all_logs_together_are_bounded_and_the_longest_silent_gives_way() {
    let logs = Logs::new(Arc::default());
    let text = "x".repeat(1_000);
    let lines: Vec<&str> = std::iter::repeat_n(&*text, BYTES / 1_000).collect();
    let plugins: Vec<String> = (0..TOTAL_BYTES / BYTES + 8)
        .map(|n| format!("p{n}"))
        .collect();
    for plugin in &plugins {
        let log = logs.of(&app(), plugin);
        logs.write(&log, &call(plugin), said(&lines));
        assert!(logs.shared.bytes.load(Ordering::Relaxed) <= TOTAL_BYTES);
    }
    let kept = |plugin: &str| logs.of(&app(), plugin).ring.lock().len();
    assert_eq!(kept(&plugins[0]), 0);
    assert!(kept(&plugins[plugins.len() - 1]) > 400);
    assert!(logs.shared.evicted.load(Ordering::Relaxed) > 400);
    // Whoever reads on is told.
    let mut cursor = 1;
    let log = logs.of(&app(), &plugins[0]);
    let missed = log.ring.lock().read(&mut cursor, &LogFilter::default(), 9);
    let counts = missed.iter().map(|item| match item {
        LogItem::Dropped { count, .. } => *count,
        LogItem::Line { .. } => panic!("none is left"),
    });
    assert_eq!(counts.sum::<u64>(), lines.len() as u64);
    // And whoever comes now sees why there is nothing.
    let [.., evicted] = &missed[..] else {
        panic!("it is said");
    };
    assert!(matches!(
        evicted,
        LogItem::Dropped {
            why: Loss::Evicted,
            ..
        }
    ));
    let seen = log.recent(&LogFilter::default(), 9);
    assert_eq!(seen, std::slice::from_ref(evicted));
    logs.write(&log, &call(&plugins[0]), said(&["again"]));
    let seen = log.recent(&LogFilter::default(), 9);
    assert_eq!(&seen[0], evicted);
    assert_eq!(texts(&seen[1..]), ["again"]);
}

#[test]
fn n4_an_app_that_says_much_empties_its_own_logs_and_nobody_elses() {
    let logs = Logs::new(Arc::default());
    let quiet: AppId = AppId::parse("quiet").unwrap();
    let of_quiet = logs.of(&quiet, "p");
    logs.write(&of_quiet, &call("p"), said(&["the last word"]));
    let text = "x".repeat(1_000);
    let lines: Vec<&str> = std::iter::repeat_n(&*text, BYTES / 1_000).collect();
    for n in 0..TOTAL_BYTES / BYTES + 8 {
        let plugin = format!("p{n}");
        logs.write(&logs.of(&app(), &plugin), &call(&plugin), said(&lines));
    }
    assert!(logs.shared.bytes.load(Ordering::Relaxed) <= TOTAL_BYTES);
    assert!(logs.shared.evicted.load(Ordering::Relaxed) > 400);
    assert_eq!(
        texts(&of_quiet.recent(&LogFilter::default(), 9)),
        ["the last word"]
    );
}

#[test]
fn n1_a_deleted_plugins_lines_go_with_it_and_nobody_elses() {
    let logs = Logs::new(Arc::default());
    for plugin in ["p", "q"] {
        logs.write(&logs.of(&app(), plugin), &call(plugin), said(&["line"]));
    }
    let kept = |plugin: &str| logs.of(&app(), plugin).ring.lock().len();
    logs.forget_plugin(&app(), "p");
    assert_eq!((kept("p"), kept("q")), (0, 1));
    let followed = LogFollower::new(logs.of(&app(), "q"), LogFilter::default(), 0);
    logs.forget_app(&app());
    assert_eq!(kept("q"), 0);
    assert!(Arc::ptr_eq(&followed.log, &logs.of(&app(), "q")));
    assert_eq!(logs.shared.bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn what_is_counted_goes_with_the_log() {
    let logs = Logs::new(Arc::default());
    logs.write(&logs.of(&app(), "p"), &call("p"), said(&["one"]));
    drop(logs.of(&app(), "empty"));
    logs.forget_unused();
    assert_eq!(logs.plugins.lock().len(), 1);
    let unlisted = logs.unlisted();
    logs.write(&unlisted, &call("trial"), said(&["two"]));
    let before = logs.shared.bytes.load(Ordering::Relaxed);
    drop(unlisted);
    assert!(logs.shared.bytes.load(Ordering::Relaxed) < before);
}

#[test]
fn a_filter_is_of_user_trace_level_and_version() {
    let line = LogLine {
        at_millis: 0,
        level: LogLevel::Warn,
        speaker: Speaker::Plugin,
        message: "m".into(),
        call: Arc::new(LogCall {
            user: Some("alice".into()),
            trace_id: Some("abc".into()),
            ..LogCall::outside("p".into(), 2, Hook::Rpc)
        }),
    };
    let any = LogFilter::default;
    let text = |text: &str| Some(text.to_owned());
    for (filter, admits) in [
        (any(), true),
        (
            LogFilter {
                user: text("alice"),
                ..any()
            },
            true,
        ),
        (
            LogFilter {
                user: text("bob"),
                ..any()
            },
            false,
        ),
        (
            LogFilter {
                trace_id: text("abc"),
                ..any()
            },
            true,
        ),
        (
            LogFilter {
                trace_id: text("ab"),
                ..any()
            },
            false,
        ),
        (
            LogFilter {
                level: LogLevel::Warn,
                ..any()
            },
            true,
        ),
        (
            LogFilter {
                level: LogLevel::Error,
                ..any()
            },
            false,
        ),
        (
            LogFilter {
                version: Some(2),
                ..any()
            },
            true,
        ),
        (
            LogFilter {
                version: Some(1),
                ..any()
            },
            false,
        ),
    ] {
        assert_eq!(filter.admits(&line), admits, "{filter:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_sees_what_was_what_comes_and_a_gap_once_it_rests() {
    let logs = Logs::new(Arc::default());
    let log = logs.of(&app(), "p");
    logs.write(&log, &call("p"), said(&["one", "two"]));
    let mut follower = LogFollower::new(Arc::clone(&log), LogFilter::default(), 1);
    assert_eq!(texts(&follower.next().await), ["two"]);

    let waiting = tokio::time::timeout(Duration::from_secs(3_600), follower.next());
    let write = async { logs.write(&log, &call("p"), said(&["three", "", ""])) };
    let (next, ()) = tokio::join!(waiting, write);
    assert_eq!(texts(&next.unwrap()), ["three"]);
    assert_eq!(texts(&follower.next().await), ["-2"]);

    // A gap that a line ends is told with that line, and once.
    logs.write(&log, &call("p"), said(&["", "seven"]));
    assert_eq!(texts(&follower.next().await), ["-1", "seven"]);
    let quiet = tokio::time::timeout(Duration::from_secs(3_600), follower.next());
    assert!(quiet.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_does_not_ask_holds_nobody_up_and_is_told_what_it_missed() {
    let logs = Logs::new(Arc::default());
    let log = logs.of(&app(), "p");
    let mut follower = LogFollower::new(Arc::clone(&log), LogFilter::default(), 0);
    let lines = vec!["line"; ring::LINES + 50];
    logs.write(&log, &call("p"), said(&lines));
    let mut seen = Vec::new();
    while seen.len() < ring::LINES + 1 {
        seen.extend(texts(&follower.next().await));
    }
    assert_eq!(seen[0], "-50");
    assert!(seen[1..].iter().all(|text| text == "line"));
    assert_eq!(logs.shared.followers.load(Ordering::Relaxed), 1);
    drop(follower);
    assert_eq!(logs.shared.followers.load(Ordering::Relaxed), 0);
}

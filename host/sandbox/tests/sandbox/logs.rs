//! The log of a plugin, through the sandbox's own interface: what the server's tests cannot make happen.

use tidegate_sandbox::{
    BreakerState, Hook, LogFilter, LogItem, LogLevel, LogLine, Sandbox, Speaker,
};

use crate::guests::{
    self, PASS, app, bind, binding, compile, filter, filtering, guest, passed, sandbox, with_filter,
};

const LOG: &str = "(import \"tidegate:plugin/log@0.1.0\" \"log\" (func $log (param i32 i32 i32)))
    (data (i32.const 2048) \"hello\")";
/// Logs `hello` at level *warn*.
const HELLO: &str = "(call $log (i32.const 3) (i32.const 2048) (i32.const 5))";

fn lines(sandbox: &Sandbox) -> Vec<std::sync::Arc<LogLine>> {
    let items = sandbox.log(&app(), "guest", &LogFilter::default(), 1_000);
    let line = |item| match item {
        LogItem::Line { line, .. } => line,
        LogItem::Dropped { count, .. } => panic!("{count} lines are missing"),
    };
    items.into_iter().map(line).collect()
}

#[test]
fn what_an_initialiser_says_is_kept_apart_from_the_call_that_needed_it() {
    let wasm = guest(
        &[Hook::Filtering],
        &format!(
            "{LOG}\n(func (export \"_initialize\") {HELLO})\n{}",
            guests::filter_function(PASS)
        ),
    );
    let sandbox = with_filter(&wasm);
    // Trying it out belongs to nobody.
    assert!(lines(&sandbox).is_empty());
    passed(&sandbox, b"{}");
    let said = lines(&sandbox);
    // One for each instance: a busy machine may have needed a second.
    assert!(!said.is_empty());
    for line in &said {
        assert_eq!(
            (&*line.message, line.level, line.speaker),
            ("hello", LogLevel::Warn, Speaker::Plugin)
        );
        assert_eq!((&line.call.user, &line.call.subject), (&None, &None));
        assert!(line.call.trace_id.is_some());
    }
}

#[test]
fn the_log_outlives_versions_and_says_which_it_was() {
    let sandbox = sandbox();
    let compiled = compile(&sandbox, &filtering(&format!("{LOG}\n{HELLO}\n{PASS}")));
    for version in [1, 2] {
        let mut bound = binding(&compiled, Hook::Filtering);
        bound.version = version;
        bind(&sandbox, vec![bound]);
        passed(&sandbox, b"{}");
    }
    bind(&sandbox, Vec::new());
    let versions: Vec<u32> = lines(&sandbox)
        .iter()
        .map(|line| line.call.version)
        .collect();
    assert_eq!(versions, [1, 2]);
}

#[test]
fn an_open_breaker_is_one_line_and_not_one_for_each_call_that_is_not_made() {
    let sandbox = with_filter(&filtering("unreachable"));
    for _ in 0..40 {
        filter(&sandbox, b"{}").expect_err("the guest traps");
    }
    let breaker = sandbox.statistics().hooks[0].breaker;
    assert_eq!(breaker, BreakerState::Open);
    let said = lines(&sandbox);
    let of = |level| said.iter().filter(|line| line.level == level).count();
    let failed = of(LogLevel::Error);
    // A probe or two may have come in on a slow machine.
    assert!((3..20).contains(&failed), "{failed}");
    assert!((1..10).contains(&of(LogLevel::Warn)));
    let opened = said.iter().find(|line| line.level == LogLevel::Warn);
    let opened = opened.expect("the breaker opened");
    assert!(
        opened.message.starts_with("not called for 1 s"),
        "{opened:?}"
    );
    assert_eq!(opened.speaker, Speaker::Node(None));
    assert!(
        said.iter()
            .all(|line| line.level == LogLevel::Warn || line.call.user.as_deref() == Some("ann"))
    );
}

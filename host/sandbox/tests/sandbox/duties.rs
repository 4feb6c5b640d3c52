//! Plugins that are told of events and run by the clock: what reaches them, what counts, and who may be one.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tidegate_realtime::{
    events::{Event, EventKind, Kinds},
    hooks::{Duties, Effect, EventsQuestion, HookFailure, Hooks, Outcome, ScheduleQuestion, Watch},
    ids::{AppId, ClientId},
};
use tidegate_sandbox::{Bindings, CompileError, Hook, Sandbox, StepEnd};

use crate::guests::{app, bind, binding, compile, guest, ready, sandbox};

const PUBLISH: &str = "(import \"tidegate:plugin/publishing@0.1.0\" \"publish\" (func $publish (param i32 i32 i32 i32 i32)))";

/// Wants `offline` and `online`. Publishes the first event's id to the channel of its user's name; code 1 traps then,
/// code 2 is answered with the trouble `busy`.
fn board() -> Vec<u8> {
    guest(
        &[Hook::Events],
        &format!(
            "{PUBLISH}
             (data (i32.const 1024) \"busy\")
             (func (export \"tidegate:plugin/events@0.1.0#wanted\") (result i32) (i32.const 384))
             (func (export \"tidegate:plugin/events@0.1.0#handle\") (param $at i32) (param $len i32) (result i32)
               (call $publish
                 (i32.load offset=24 (local.get $at)) (i32.load offset=28 (local.get $at))
                 (i32.load (local.get $at)) (i32.load offset=4 (local.get $at))
                 (i32.const 64))
               (if (i32.load8_u (i32.const 64)) (then unreachable))
               (if (i32.eq (i32.load offset=48 (local.get $at)) (i32.const 1)) (then unreachable))
               (i32.store8 (i32.const 16) (i32.eq (i32.load offset=48 (local.get $at)) (i32.const 2)))
               (i32.store (i32.const 20) (i32.const 1024))
               (i32.store (i32.const 24) (i32.const 4))
               (i32.const 16))"
        ),
    )
}

/// A schedule with this answer to `periods`, of records at 2048; it publishes the due time's low digits to the channel
/// of the period's name.
fn gong(periods: &str, num_periods: usize) -> Vec<u8> {
    guest(
        &[Hook::Schedule],
        &format!(
            "{PUBLISH}
             (data (i32.const 1024) \"hour\")
             (func (export \"tidegate:plugin/schedule@0.1.0#periods\") (result i32)
               {periods}
               (i32.store (i32.const 16) (i32.const 2048))
               (i32.store (i32.const 20) (i32.const {num_periods}))
               (i32.const 16))
             (func (export \"tidegate:plugin/schedule@0.1.0#run\") (param i32 i32 i64) (result i32)
               (i32.store8 (i32.const 32) (i32.add (i32.const 48) (i32.wrap_i64 (local.get 2))))
               (call $publish (local.get 0) (local.get 1) (i32.const 32) (i32.const 1) (i32.const 64))
               (i32.store8 (i32.const 16) (i32.const 0))
               (i32.const 16))"
        ),
    )
}

/// One period at 2048: `hour`, so many seconds.
fn period(seconds: u32) -> String {
    format!(
        "(i32.store (i32.const 2048) (i32.const 1024)) (i32.store (i32.const 2052) (i32.const 4))
         (i32.store (i32.const 2056) (i32.const {seconds}))"
    )
}

#[derive(Default)]
struct Seen(Mutex<BTreeMap<AppId, Duties>>);

impl Watch for Seen {
    fn on_duties(&self, duties: &BTreeMap<AppId, Duties>) {
        *self.0.lock() = duties.clone();
    }
}

fn with(wasm: &[u8], hook: Hook) -> (Arc<Sandbox>, Arc<Seen>) {
    let sandbox = sandbox();
    let seen = Arc::new(Seen::default());
    sandbox.watch_duties(Arc::clone(&seen) as Arc<dyn Watch>);
    let compiled = compile(&sandbox, wasm);
    bind(&sandbox, vec![binding(&compiled, hook)]);
    (sandbox, seen)
}

fn offline(code: u32) -> Event {
    Event {
        client: Some(ClientId::random()),
        code,
        reason: "gone".into(),
        channel: "room".into(),
        ..Event::of_user(EventKind::Offline, "ann")
    }
}

fn tell(sandbox: &Sandbox, batch: Vec<Event>) -> Result<Outcome<()>, HookFailure> {
    ready(sandbox.events(EventsQuestion {
        app: app(),
        plugin: "guest".into(),
        batch,
    }))
}

#[test]
fn events_reach_their_plugin_and_what_it_queued_is_an_effect() {
    let (sandbox, seen) = with(&board(), Hook::Events);
    let duties = seen.0.lock()[&app()].clone();
    assert_eq!(&*duties.observers[0].plugin, "guest");
    let wanted: Kinds = [EventKind::Online, EventKind::Offline]
        .into_iter()
        .collect();
    assert_eq!(duties.observers[0].kinds, wanted);
    assert!(duties.timetables.is_empty());
    let event = offline(0);
    let many = vec![event.clone(); 16];
    for batch in [vec![event.clone()], many] {
        match &tell(&sandbox, batch).unwrap().effects[..] {
            [Effect::Publish { channel, data, .. }] => {
                assert_eq!(&**channel, "ann");
                assert_eq!(*data, event.id.to_string());
            }
            other => panic!("{other:?}"),
        }
    }
    // Unbound, it has no duties any more, and nobody fails for that.
    sandbox.apply(&Bindings::default()).unwrap();
    assert!(seen.0.lock().is_empty());
    assert!(tell(&sandbox, vec![offline(1)]).unwrap().effects.is_empty());
}

#[test]
fn a_call_that_traps_or_is_in_trouble_has_failed_and_its_effects_do_not_happen() {
    let (sandbox, _) = with(&board(), Hook::Events);
    let failure = tell(&sandbox, vec![offline(1)]).unwrap_err();
    let story = sandbox.explain(&failure.trace_id).unwrap();
    assert!(matches!(story.steps[0].ended, StepEnd::Failed { .. }));
    let failure = tell(&sandbox, vec![offline(2)]).unwrap_err();
    let story = sandbox.explain(&failure.trace_id).unwrap();
    assert_eq!(story.steps[0].ended, StepEnd::Answered("trouble"));
    assert_eq!(story.steps[0].reason.as_deref(), Some("busy"));
    assert!(tell(&sandbox, vec![offline(0)]).is_ok());
}

#[test]
fn a_schedule_is_told_which_period_and_for_when() {
    let (sandbox, seen) = with(&gong(&period(3_600), 1), Hook::Schedule);
    let duties = seen.0.lock()[&app()].clone();
    assert!(duties.observers.is_empty());
    let periods = &duties.timetables[0].periods;
    assert_eq!(
        (&*periods[0].name, periods[0].every.as_secs()),
        ("hour", 3_600)
    );
    let ran = ready(sandbox.scheduled(ScheduleQuestion {
        app: app(),
        plugin: "guest".into(),
        period: "hour".into(),
        due_ms: 7,
    }));
    match &ran.unwrap().effects[..] {
        [Effect::Publish { channel, data, .. }] => {
            assert_eq!((&**channel, &data[..]), ("hour", &b"7"[..]));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn w1_duties_that_make_no_sense_are_refused_at_upload() {
    let wanting = |answer: &str, more: &str| {
        guest(
            &[Hook::Events],
            &format!(
                "{more}
                 (func (export \"tidegate:plugin/events@0.1.0#wanted\") (result i32) {answer})
                 (func (export \"tidegate:plugin/events@0.1.0#handle\") (param i32 i32) (result i32) (i32.const 16))"
            ),
        )
    };
    let clock = "(import \"tidegate:plugin/clock@0.1.0\" \"now\" (func $now (result i64)))";
    for (wasm, rule) in [
        (wanting("(i32.const 0)", ""), "events"),
        (wanting("unreachable", ""), "duties"),
        (wanting("(loop $x (br $x)) (i32.const 1)", ""), "duties"),
        (wanting("(drop (call $now)) (i32.const 1)", clock), "duties"),
        (gong("", 0), "schedule"),
        (gong(&period(0), 1), "schedule"),
        (gong(&period(31 * 86_400 + 1), 1), "schedule"),
    ] {
        let sandbox = sandbox();
        let admitted = sandbox.admit(&wasm).unwrap();
        match sandbox.compile(&admitted) {
            Err(CompileError::Refused(refused)) => assert_eq!(refused.rule, rule, "{refused}"),
            other => panic!("{rule}: {other:?}"),
        }
    }
}

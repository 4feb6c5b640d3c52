//! What a plugin that waits is allowed and what it costs others, with stores that answer when the test says so.

use std::{
    num::NonZeroUsize,
    sync::{Arc, mpsc},
    time::Duration,
};

use bytes::Bytes;
use tidegate_realtime::{
    hooks::{
        Answered, AuthenticationQuestion, AuthenticationReason, AuthenticationVerdict, Hooks as _,
        Peer, Progress, RpcQuestion, RpcVerdict, TokenCheck,
    },
    ids::AppId,
    store::{Life, MemoryStore, Owner, Store, StoreError, StoreKey, StoreValue, Stored, Swap},
};
use tidegate_sandbox::{
    Bindings, Class, FailureKind, Hook, Lane, Sandbox, SandboxConfig, Scope, StepEnd, Took,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use crate::guests::{PASS, app, binding, compile, filter_function, guest, peer, ready, sandbox};

const GET: &str =
    "(import \"tidegate:plugin/store@0.1.0\" \"get\" (func $get (param i32 i32 i32)))";

/// Asks for a key, and answers with the result's case, the case in it and what the call has left then.
fn asks() -> Vec<u8> {
    guest(
        &[Hook::Rpc],
        &format!(
            "{GET}
             (import \"tidegate:plugin/budget@0.1.0\" \"remaining\" (func $remaining (result i32)))
             (data (i32.const 1024) \"k\")
             (func (export \"tidegate:plugin/rpc@0.1.0#call\") (param i32 i32 i32 i32 i32 i32) (result i32)
               (call $get (i32.const 1024) (i32.const 1) (i32.const 64))
               (i32.store (i32.const 2048) (i32.load8_u (i32.const 64)))
               (i32.store (i32.const 2052) (i32.load8_u (i32.const 68)))
               (i32.store (i32.const 2056) (call $remaining))
               (i32.store8 (i32.const 16) (i32.const 1))
               (i32.store (i32.const 20) (i32.const 2048)) (i32.store (i32.const 24) (i32.const 12))
               (i32.const 16))"
        ),
    )
}

/// What [`asks`] answered.
#[derive(Debug, PartialEq)]
struct Said {
    is_error: bool,
    /// Of the error, or whether there is a value.
    case: u32,
    remaining: Duration,
}

/// The place of `unavailable` among the errors.
const UNAVAILABLE: u32 = 5;

fn rpc(sandbox: &Sandbox, app: &AppId) -> Answered<RpcVerdict> {
    sandbox.rpc(RpcQuestion {
        peer: Arc::new(Peer {
            app: app.clone(),
            ..Peer::clone(&peer("ann"))
        }),
        method: "m".into(),
        data: Bytes::new(),
    })
}

#[track_caller]
fn said(sandbox: &Sandbox, answered: Answered<RpcVerdict>) -> Said {
    let outcome = match ready(answered) {
        Ok(outcome) => outcome,
        Err(failure) => panic!("{:?}", sandbox.explain(&failure.trace_id)),
    };
    let RpcVerdict::Reply(reply) = outcome.verdict else {
        panic!("expected a reply, got {:?}", outcome.verdict);
    };
    let word = |at: usize| u32::from_le_bytes(reply[at..at + 4].try_into().unwrap());
    Said {
        is_error: word(0) != 0,
        case: word(4),
        remaining: Duration::from_millis(word(8).into()),
    }
}

/// A store that says when it is asked, and answers that there is nothing once it may.
struct Gate {
    /// Takes the name of the plugin.
    asked: mpsc::SyncSender<String>,
    may_answer: watch::Receiver<bool>,
}

fn away<T>() -> Stored<T> {
    Progress::Ready(Err(StoreError::Unavailable))
}

impl Store for Gate {
    fn get(&self, owner: &Owner, _: &StoreKey) -> Stored<Option<Bytes>> {
        let (asked, mut may_answer) = (self.asked.clone(), self.may_answer.clone());
        let plugin = owner.key().channel().to_owned();
        Progress::Pending(Box::pin(async move {
            asked.try_send(plugin).unwrap();
            may_answer.wait_for(|may| *may).await.unwrap();
            Ok(None)
        }))
    }

    fn set(&self, _: &Owner, _: &StoreKey, _: StoreValue, _: Life) -> Stored<()> {
        away()
    }

    fn compare_and_set(&self, _: &Owner, _: &StoreKey, _: Swap) -> Stored<bool> {
        away()
    }

    fn increment(&self, _: &Owner, _: &StoreKey, _: i64, _: Life) -> Stored<i64> {
        away()
    }

    fn count(&self, _: &Owner, _: &StoreKey) -> Stored<i64> {
        away()
    }

    fn delete(&self, _: &Owner, _: &StoreKey) -> Stored<bool> {
        away()
    }

    fn forget(&self, _: &Owner) -> Stored<()> {
        away()
    }
}

/// A sandbox whose store is a gate.
struct Gated {
    sandbox: Arc<Sandbox>,
    asked: mpsc::Receiver<String>,
    may_answer: watch::Sender<bool>,
    stop: CancellationToken,
    _runtime: Runtime,
}

impl Gated {
    /// With one plugin thread and two for plugins that wait, of which an app has one.
    fn new() -> Self {
        Self::with_waiting_threads(2)
    }

    fn with_waiting_threads(number: usize) -> Self {
        let sandbox = Sandbox::new(SandboxConfig {
            plugin_threads: NonZeroUsize::new(1),
            waiting_threads: NonZeroUsize::new(number).unwrap(),
            ..SandboxConfig::default()
        })
        .unwrap();
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (asked_sender, asked) = mpsc::sync_channel(64);
        let (may_answer, receiver) = watch::channel(false);
        let stop = CancellationToken::new();
        let gate = Arc::new(Gate {
            asked: asked_sender,
            may_answer: receiver,
        });
        sandbox.open_store(gate, runtime.handle().clone(), stop.clone());
        Self {
            sandbox,
            asked,
            may_answer,
            stop,
            _runtime: runtime,
        }
    }

    /// Binds the guest that asks in these apps, and one that does not wait.
    fn bind(&self, apps: &[&AppId], deadline: Duration) {
        let asks = compile(&self.sandbox, &asks());
        let other = guest(
            &[Hook::Authentication],
            "(func (export \"tidegate:plugin/authentication@0.1.0#authenticate\")
               (param i32 i32 i32 i32 i32) (result i32)
               (i64.store (i32.const 16) (i64.const 0)) (i32.const 16))",
        );
        let other = compile(&self.sandbox, &other);
        let of_app = || {
            let mut waits = binding(&asks, Hook::Rpc);
            waits.plugin = "asks".into();
            waits.limits.deadline = Some(deadline);
            vec![waits, binding(&other, Hook::Authentication)]
        };
        let apps = apps.iter().map(|app| ((*app).clone(), of_app()));
        let bindings = Bindings {
            apps: apps.collect(),
        };
        self.sandbox.apply(&bindings).unwrap();
    }
}

#[test]
fn a_plugin_that_waits_has_no_hook_where_messages_pass() {
    let sandbox = sandbox();
    let body = format!("{GET}\n(call $get (local.get 4) (local.get 5) (i32.const 64))\n{PASS}");
    let refused = sandbox
        .admit(&guest(&[Hook::Filtering], &filter_function(&body)))
        .unwrap_err();
    assert_eq!(refused.rule, "waiting-import");
    assert!(
        refused.detail.contains("tidegate:plugin/store@0.1.0"),
        "{refused}"
    );
    assert!(refused.detail.contains("filtering"), "{refused}");
    let admitted = sandbox.admit(&asks()).unwrap();
    assert_eq!(admitted.class(), Class::Waiting);
    assert_eq!(compile(&sandbox, &asks()).class(), Class::Waiting);
}

#[test]
fn a_store_in_memory_answers_and_one_that_is_not_there_is_unavailable() {
    let sandbox = sandbox();
    let bindings = Bindings {
        apps: [(app(), vec![binding(&compile(&sandbox, &asks()), Hook::Rpc)])].into(),
    };
    sandbox.apply(&bindings).unwrap();
    let none = said(&sandbox, rpc(&sandbox, &app()));
    assert_eq!((none.is_error, none.case), (true, UNAVAILABLE));
    let runtime = Builder::new_current_thread().build().unwrap();
    let store = Arc::new(MemoryStore::default());
    let never = CancellationToken::new();
    sandbox.open_store(store, runtime.handle().clone(), never);
    let nothing = said(&sandbox, rpc(&sandbox, &app()));
    assert_eq!((nothing.is_error, nothing.case), (false, 0));
    assert!(nothing.remaining > Duration::from_secs(1), "it has seconds");
}

#[test]
fn a_store_that_stalls_costs_half_the_call_and_leaves_the_rest_to_decide() {
    let gated = Gated::new();
    let deadline = Duration::from_secs(2);
    gated.bind(&[&app()], deadline);
    let said = said(&gated.sandbox, rpc(&gated.sandbox, &app()));
    assert_eq!((said.is_error, said.case), (true, UNAVAILABLE));
    assert!(said.remaining > Duration::ZERO, "{said:?}");
    assert!(said.remaining <= deadline / 2, "{said:?}");
    let rows = gated.sandbox.statistics_of(app().as_str());
    let row = rows.iter().find(|row| row.hook == Hook::Rpc).unwrap();
    assert_eq!(row.lane, Lane::Waiting);
}

#[test]
fn a_plugin_that_waits_takes_no_thread_from_others_nor_all_from_other_apps() {
    let gated = Gated::new();
    let apps = [app(), AppId::parse("other").unwrap()];
    gated.bind(&[&apps[0], &apps[1]], Duration::from_secs(10));
    let sandbox = &gated.sandbox;
    let first = rpc(sandbox, &apps[0]);
    gated.asked.recv().unwrap();
    // While it waits, who does not wait is answered, by the only plugin thread there is.
    let authenticated = sandbox.authenticate(AuthenticationQuestion {
        reason: AuthenticationReason::Connect,
        peer: peer(""),
        token: "".into(),
        token_check: TokenCheck::Absent,
        data: Bytes::new(),
    });
    let verdict = ready(authenticated).unwrap().verdict;
    assert!(matches!(verdict, AuthenticationVerdict::NotMine));
    // And the other app has a thread to wait on, which the first cannot take.
    let other = rpc(sandbox, &apps[1]);
    gated.asked.recv().unwrap();
    gated.may_answer.send_replace(true);
    for answered in [first, other] {
        let said = said(sandbox, answered);
        assert_eq!((said.is_error, said.case), (false, 0));
    }
}

#[test]
fn a_plugin_that_waits_leaves_its_app_threads_for_the_plugins_beside_it() {
    let gated = Gated::with_waiting_threads(4);
    let sandbox = &gated.sandbox;
    let compiled = compile(sandbox, &asks());
    let at = |plugin: &str, prefix: &str| {
        let mut waits = binding(&compiled, Hook::Rpc);
        waits.plugin = plugin.into();
        waits.scope = Scope::RpcPrefix(prefix.to_owned());
        waits.limits.deadline = Some(Duration::from_secs(10));
        waits
    };
    let bindings = Bindings {
        apps: [(app(), vec![at("stuck", "s."), at("beside", "b.")])].into(),
    };
    sandbox.apply(&bindings).unwrap();
    let call = |method: &str| {
        sandbox.rpc(RpcQuestion {
            peer: peer("ann"),
            method: method.into(),
            data: Bytes::new(),
        })
    };
    // The app has two threads, and what came second may not have the second one.
    let stuck = [call("s.1"), call("s.2")];
    assert_eq!(gated.asked.recv().unwrap(), "stuck");
    let beside = call("b.1");
    assert_eq!(gated.asked.recv().unwrap(), "beside");
    gated.may_answer.send_replace(true);
    for answered in stuck.into_iter().chain([beside]) {
        let said = said(sandbox, answered);
        assert_eq!((said.is_error, said.case), (false, 0));
    }
}

#[test]
fn who_may_wait_may_not_compute_for_as_long() {
    let sandbox = sandbox();
    // It imports the store, and never ends.
    let spins = guest(
        &[Hook::Rpc],
        &format!(
            "{GET}
             (func (export \"tidegate:plugin/rpc@0.1.0#call\") (param i32 i32 i32 i32 i32 i32) (result i32)
               (if (i32.eqz (local.get 3)) (then (call $get (i32.const 0) (i32.const 0) (i32.const 64))))
               (loop $ever (br $ever)) (i32.const 16))"
        ),
    );
    let mut bound = binding(&compile(&sandbox, &spins), Hook::Rpc);
    bound.limits.deadline = Some(Hook::Rpc.deadline_cap(Class::Waiting));
    let bindings = Bindings {
        apps: [(app(), vec![bound])].into(),
    };
    sandbox.apply(&bindings).unwrap();
    let failure = ready(rpc(&sandbox, &app())).unwrap_err();
    let story = sandbox.explain(&failure.trace_id).unwrap();
    let StepEnd::Failed { kind, .. } = &story.steps[0].ended else {
        panic!("{story:?}");
    };
    assert_eq!(*kind, FailureKind::Timeout);
    let measured = story.steps[0].measured.unwrap();
    let Took::Exactly(worked) = measured.took else {
        panic!("{measured:?}");
    };
    assert!(worked >= Duration::from_millis(90), "{worked:?}");
    assert!(
        worked < Duration::from_secs(5),
        "of ten that it has: {worked:?}"
    );
}

#[test]
fn a_node_that_stops_ends_the_waiting() {
    let gated = Gated::new();
    gated.bind(&[&app()], Duration::from_secs(10));
    let waits = rpc(&gated.sandbox, &app());
    gated.asked.recv().unwrap();
    gated.stop.cancel();
    let said = said(&gated.sandbox, waits);
    assert_eq!((said.is_error, said.case), (true, UNAVAILABLE));
    assert!(said.remaining > Duration::from_secs(5), "{said:?}");
}

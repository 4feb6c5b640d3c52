//! Guests of the tests, written as WebAssembly text: small enough that every instruction is known.
//!
//! A guest is a core module plus the metadata that the SDK would embed, so it takes the same way in as a plugin
//! made for `wasm32-unknown-unknown`.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use bytes::Bytes;
use tidegate_realtime::{
    hooks::{
        Answered, Draft, FilteringVerdict, HookFailure, Hooks, Origin, Outcome, Peer, Progress,
    },
    ids::{AppId, ClientId},
};
use tidegate_sandbox::{
    Binding, Bindings, Compiled, FailureKind, FailurePolicy, Hook, Isolation, PluginLimits,
    Sandbox, SandboxConfig, Scope, StepEnd,
};
use tidegate_test_contract::embed;

/// What every guest has: a memory, an allocator that never frees but wraps around, imports as asked.
const PRELUDE: &str = r#"
    (memory (export "memory") 2)
    (global $next (mut i32) (i32.const 65536))
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      ;; Everything of one call fits between 64 KiB and 128 KiB; a larger block gets what it takes by growing.
      (local.set $at (i32.and (i32.add (global.get $next) (i32.const 15)) (i32.const -16)))
      (if (i32.gt_u (i32.add (local.get $at) (local.get 3)) (i32.mul (memory.size) (i32.const 65536)))
        (then
          (if (i32.gt_u (local.get 3) (i32.const 65000))
            (then
              (drop (memory.grow (i32.add (i32.shr_u (local.get 3) (i32.const 16)) (i32.const 1)))))
            (else (local.set $at (i32.const 65536))))))
      (global.set $next (i32.add (local.get $at) (local.get 3)))
      (local.get $at))
"#;

/// A plugin that exports `hooks`, from the text of its functions.
pub(crate) fn guest(hooks: &[Hook], functions: &str) -> Vec<u8> {
    let exports: String = hooks
        .iter()
        .map(|hook| format!("export {hook};\n"))
        .collect();
    guest_in_world(&format!("include capabilities;\n{exports}"), functions)
}

/// A plugin of an arbitrary world in our package.
pub(crate) fn guest_in_world(world: &str, functions: &str) -> Vec<u8> {
    embed(module(functions), world)
}

/// A core module without metadata. Imports must come first, so they are moved before the prelude.
pub(crate) fn module(functions: &str) -> Vec<u8> {
    let (imports, rest): (Vec<&str>, Vec<&str>) = functions
        .lines()
        .partition(|line| line.trim_start().starts_with("(import"));
    let text = format!(
        "(module\n{}\n{PRELUDE}\n{}\n)",
        imports.join("\n"),
        rest.join("\n")
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A filtering function with this body, which must leave a pointer to its verdict. Parameters: channel (0, 1),
/// user (2, 3), data (4, 5). Verdict: tag, at +4 the replacement or the refusal's kind, at +8 the code, at +12
/// the reason.
pub(crate) fn filtering(body: &str) -> Vec<u8> {
    guest(&[Hook::Filtering], &filter_function(body))
}

pub(crate) fn filter_function(body: &str) -> String {
    let (imports, rest): (Vec<&str>, Vec<&str>) = body.lines().partition(|line| {
        line.trim_start().starts_with("(import") || line.trim_start().starts_with("(data")
    });
    format!(
        "{}\n(func (export \"tidegate:plugin/filtering@0.1.0#filter\")
           (param i32 i32 i32 i32 i32 i32) (result i32) (local $x i32)\n{}\n)",
        imports.join("\n"),
        rest.join("\n")
    )
}

/// Answers `pass`.
pub(crate) const PASS: &str = "(i32.store8 (i32.const 16) (i32.const 0)) (i32.const 16)";
/// Answers `replace` with the data at 1024, `len` bytes.
pub(crate) fn replace(len: usize) -> String {
    format!(
        "(i32.store8 (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (i32.const 1024))
         (i32.store (i32.const 24) (i32.const {len})) (i32.const 16)"
    )
}
/// Answers `refuse`: kind 0 error, 1 disconnect; the reason is at 1024.
pub(crate) fn refuse(kind: u8, code: u32, reason_len: usize) -> String {
    format!(
        "(i32.store8 (i32.const 16) (i32.const 3)) (i32.store8 (i32.const 20) (i32.const {kind}))
         (i32.store (i32.const 24) (i32.const {code})) (i32.store (i32.const 28) (i32.const 1024))
         (i32.store (i32.const 32) (i32.const {reason_len})) (i32.const 16)"
    )
}

pub(crate) fn sandbox() -> Arc<Sandbox> {
    Sandbox::new(SandboxConfig::default()).unwrap()
}

pub(crate) fn app() -> AppId {
    AppId::default_app()
}

#[track_caller]
pub(crate) fn compile(sandbox: &Sandbox, wasm: &[u8]) -> Compiled {
    let admitted = sandbox.admit(wasm).unwrap();
    sandbox.compile(&admitted).unwrap()
}

/// A binding with defaults throughout.
pub(crate) fn binding(compiled: &Compiled, hook: Hook) -> Binding {
    Binding {
        plugin: "guest".into(),
        version: 1,
        compiled: compiled.clone(),
        hook,
        scope: Scope::App,
        position: 0,
        config: "{}".into(),
        failure_policy: FailurePolicy::Closed,
        isolation: Isolation::default(),
        limits: PluginLimits::default(),
    }
}

#[track_caller]
pub(crate) fn bind(sandbox: &Sandbox, bindings: Vec<Binding>) {
    let bindings = Bindings {
        apps: [(app(), bindings)].into(),
    };
    sandbox.apply(&bindings).unwrap();
}

/// A sandbox with one filtering guest.
#[track_caller]
pub(crate) fn with_filter(wasm: &[u8]) -> Arc<Sandbox> {
    let sandbox = sandbox();
    let compiled = compile(&sandbox, wasm);
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    sandbox
}

pub(crate) fn peer(user: &str) -> Arc<Peer> {
    Arc::new(Peer {
        app: app(),
        client: ClientId::random(),
        user: user.into(),
        transport: "websocket",
        name: "js".into(),
        version: "5.0".into(),
        remote_addr: "192.0.2.1".into(),
        headers: [("x-test".into(), "seen".into())].into(),
        meta: Bytes::from_static(b"{\"role\":\"op\"}"),
        info: Bytes::new(),
    })
}

pub(crate) fn draft(channel: &str, data: &[u8]) -> Box<Draft> {
    Box::new(Draft {
        app: app(),
        channel: channel.into(),
        origin: Origin::Client(peer("ann")),
        data: Bytes::copy_from_slice(data),
        tags: Vec::new(),
        skip_history: false,
        idempotency_key: None,
        delta: None,
        hops: 0,
    })
}

/// The answer, from whichever lane.
pub(crate) fn ready<V>(answered: Answered<V>) -> Result<Outcome<V>, HookFailure> {
    match answered {
        Progress::Ready(answer) => answer,
        Progress::Pending(future) => wait(future),
    }
}

/// Runs a future on this thread, which sleeps meanwhile.
fn wait<T>(mut future: Pin<Box<dyn Future<Output = T> + Send>>) -> T {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

#[track_caller]
pub(crate) fn filter(sandbox: &Sandbox, data: &[u8]) -> Result<FilteringVerdict, HookFailure> {
    ready(sandbox.filter(draft("room", data))).map(|outcome| outcome.verdict)
}

/// What came out of filtering when the message passed.
#[track_caller]
pub(crate) fn passed(sandbox: &Sandbox, data: &[u8]) -> Bytes {
    loop {
        match filter(sandbox, data) {
            Ok(FilteringVerdict::Pass(draft)) => return draft.data,
            // On a machine with more to do than it can, five milliseconds pass while a thread waits, and three
            // times that opens the breaker for a second.
            Err(failure) if is_timeout(sandbox, &failure) => {}
            Err(failure) => panic!("{:?}", sandbox.explain(&failure.trace_id)),
            other => panic!("expected the message to pass, got {other:?}"),
        }
    }
}

pub(crate) fn is_timeout(sandbox: &Sandbox, failure: &HookFailure) -> bool {
    let story = sandbox.explain(&failure.trace_id);
    story.is_some_and(|story| {
        story.steps.iter().any(|step| {
            matches!(
                step.ended,
                StepEnd::Failed {
                    kind: FailureKind::Timeout | FailureKind::NoSlot | FailureKind::BreakerOpen,
                    ..
                }
            )
        })
    })
}

//! Generated input: whatever arrives, the answer is a refusal or a plugin, a verdict or a failure; never a panic.
//!
//! A fixed number of cases runs with the tests. `TIDEGATE_FUZZ_CASES=100000` runs more of them, and
//! `TIDEGATE_FUZZ_FIRST=N` begins at the case that a failure names: each is made from its number alone.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};
use tidegate_realtime::hooks::{
    AuthenticationQuestion, AuthenticationReason, AuthenticationVerdict, AuthorizationQuestion,
    AuthorizationReason, AuthorizationVerdict, FilteringVerdict, HookFailure, Hooks, Refusal,
    RoutingVerdict, RpcQuestion, RpcVerdict, TokenCheck,
};
use tidegate_sandbox::{Admitted, Compiled, FailureKind, Hook, MAX_UPLOAD_BYTES, Sandbox, StepEnd};
use tidegate_test_contract::embed_foreign;

use crate::guests::{
    self, PASS, bind, binding, compile, draft, filter_function, guest, guest_in_world, peer, ready,
    sandbox,
};

/// The hooks that answer with something that can be made up.
const ASKED: [Hook; 5] = [
    Hook::Authentication,
    Hook::Authorization,
    Hook::Filtering,
    Hook::Routing,
    Hook::Rpc,
];

/// Runs `usual` cases, each with a generator of its own, and names the one that failed.
fn cases(usual: u64, case: impl Fn(&mut StdRng)) {
    #[expect(
        clippy::disallowed_methods,
        reason = "tests have no configuration module"
    )]
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first: u64 = number("TIDEGATE_FUZZ_FIRST").unwrap_or(0);
    let count: u64 = number("TIDEGATE_FUZZ_CASES").unwrap_or(usual);
    for number in first..first + count {
        let mut rng = StdRng::seed_from_u64(number);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| case(&mut rng))) {
            panic!(
                "case {number} failed; TIDEGATE_FUZZ_FIRST={number} TIDEGATE_FUZZ_CASES=1 runs it alone: {:?}",
                panic.downcast_ref::<String>()
            );
        }
    }
}

/// Plugins of all shapes that there are, as components and as the core modules they came from.
fn seeds(sandbox: &Sandbox) -> Vec<Vec<u8>> {
    let importing = format!(
        "(import \"tidegate:plugin/clock@0.1.0\" \"now\" (func $now (result i64)))\n{}",
        filter_function(&format!("(drop (call $now))\n{PASS}"))
    );
    let modules = [
        guests::filtering(PASS),
        guest(&[Hook::Filtering], &importing),
        guest(&ASKED, &echoes()),
    ];
    let components: Vec<_> = modules
        .iter()
        .map(|module| sandbox.admit(module).unwrap().component)
        .collect();
    modules.into_iter().chain(components).collect()
}

/// Breaks a file in one of the ways in which files break, or are broken.
fn mutate(rng: &mut StdRng, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = rng.random_range(0..bytes.len().max(1)).min(bytes.len());
    let len = rng.random_range(1..=32);
    let end = (at + len).min(bytes.len());
    match rng.random_range(0..8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        1 if at < bytes.len() => bytes[at] = rng.random(),
        // A number of many bytes, where sizes, counts and indices are numbers of few.
        2 => drop(bytes.splice(at..end.min(at + 1), [0xff, 0xff, 0xff, 0xff, 0x0f])),
        3 => drop(bytes.splice(at..end, [])),
        4 => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
        5 => {
            let from = rng.random_range(0..other.len());
            let piece = other[from..(from + len).min(other.len())].to_vec();
            bytes.splice(at..end, piece);
        }
        6 if rng.random_ratio(1, 8) => bytes.truncate(at),
        _ => bytes.insert(at, rng.random_range(0..=0x20)),
    }
}

/// What holds for everything that is admitted.
fn check_admitted(sandbox: &Sandbox, admitted: &Admitted) {
    assert!(!admitted.hooks.is_empty() && admitted.component.len() <= MAX_UPLOAD_BYTES);
    let digest: [u8; 32] = Sha256::digest(&admitted.component).into();
    assert_eq!(admitted.digest, digest);
    let again = sandbox.admit(&admitted.component).unwrap();
    assert_eq!(
        (&again.component, &again.hooks, &again.imports),
        (&admitted.component, &admitted.hooks, &admitted.imports),
        "what was admitted is admitted again, as the same"
    );
}

#[test]
fn w1_mutants_of_plugins_are_refused_by_name_or_are_plugins() {
    let sandbox = sandbox();
    let seeds = seeds(&sandbox);
    let (admitted, compiled) = (AtomicUsize::new(0), AtomicUsize::new(0));
    cases(3_000, |rng| {
        let mut mutant = seeds[rng.random_range(0..seeds.len())].clone();
        let other = &seeds[rng.random_range(0..seeds.len())];
        for _ in 0..rng.random_range(1..=4) {
            mutate(rng, &mut mutant, other);
        }
        let plugin = match sandbox.admit(&mutant) {
            Ok(plugin) => plugin,
            Err(refusal) => {
                assert!(!refusal.detail.is_empty() && !refusal.help.is_empty());
                return;
            }
        };
        check_admitted(&sandbox, &plugin);
        // Some go all the way: compiled, instantiated, asked. What they answer is their business.
        if admitted.fetch_add(1, Ordering::Relaxed).is_multiple_of(20)
            && let Ok(plugin) = sandbox.compile(&plugin)
        {
            compiled.fetch_add(1, Ordering::Relaxed);
            for hook in plugin.hooks() {
                bind(&sandbox, vec![binding(&plugin, *hook)]);
                check_answer(&sandbox, *hook, b"{}");
            }
        }
    });
    assert!(
        compiled.into_inner() > 0,
        "no mutant came through; the mutations are too coarse to try what is behind admission"
    );
}

/// A valid core module of no particular meaning: functions of stack juggling, exports, data, perhaps a start.
fn valid_module(rng: &mut StdRng) -> Vec<u8> {
    let mut fields = String::new();
    if rng.random_bool(0.5) {
        fields += "(import \"env\" \"f\" (func (param i32) (result i32)))\n";
    }
    for _ in 0..rng.random_range(0..3) {
        let min = rng.random_range(0..40);
        fields += &format!("(table {min} funcref)\n");
    }
    for number in 0..rng.random_range(0..12) {
        let export = match rng.random_range(0..6) {
            0 => format!("(export \"f{number}\")"),
            1 if number == 0 => "(export \"cabi_realloc\")".to_owned(),
            2 => format!("(export \"tidegate:plugin/filtering@0.1.0#f{number}\")"),
            3 if number == 0 => "(export \"tidegate:plugin/filtering@0.1.0#filter\")".to_owned(),
            _ => String::new(),
        };
        let body: String = (0..rng.random_range(0..20))
            .map(|_| match rng.random_range(0..5) {
                0 => "(drop (i32.const -1))",
                1 => "(block (br 0))",
                2 => "(loop nop)",
                3 => "(if (i32.const 0) (then unreachable))",
                _ => "(drop (i64.add (i64.const 1) (i64.const 2)))",
            })
            .collect();
        fields += &format!("(func {export} {body})\n");
    }
    if rng.random_bool(0.2) {
        fields += "(func $start) (start $start)\n";
    }
    if rng.random_bool(0.3) {
        fields += "(memory (export \"memory\") 1) (data (i32.const 0) \"data\")\n";
    }
    wat::parse_str(format!("(module\n{fields})")).unwrap()
}

#[test]
fn w1_valid_modules_that_are_no_plugins_are_refused_and_the_converter_survives_them() {
    let sandbox = sandbox();
    let contract = contract_of(&guest(&[Hook::Filtering], &filter_function(PASS)));
    cases(500, |rng| {
        let mut module = valid_module(rng);
        assert_eq!(sandbox.admit(&module).unwrap_err().rule, "no-contract");
        // With the contract of a plugin it goes into the converter, which finds that what it promises is not there.
        module.extend_from_slice(&contract);
        if let Ok(plugin) = sandbox.admit(&module) {
            check_admitted(&sandbox, &plugin);
        }
    });
}

/// The custom section in which a core module says of which hooks it is.
fn contract_of(module: &[u8]) -> Vec<u8> {
    let mut bare = guests::module(&filter_function(PASS));
    let before = bare.len();
    assert!(module.len() > before, "the contract comes last");
    let section = module[before..].to_vec();
    bare.extend_from_slice(&section);
    assert_eq!(bare, module);
    section
}

#[test]
fn w1_contracts_that_do_not_fit_the_module_are_refused() {
    let sandbox = sandbox();
    let module = guests::module(&filter_function(PASS));
    let wrong = embed_foreign(
        module,
        "package tidegate:plugin@0.1.0; world test { import missing: func(); export other: func() -> string; }",
    );
    assert_eq!(sandbox.admit(&wrong).unwrap_err().rule, "conversion");
    let no_function = guest_in_world("export filtering;", "");
    assert_eq!(sandbox.admit(&no_function).unwrap_err().rule, "conversion");
}

/// Functions of all hooks that answer with the bytes of the data they were asked about, whatever those mean.
fn echoes() -> String {
    let texts: String = TEXTS
        .iter()
        .enumerate()
        .map(|(at, text)| {
            let escaped: String = text.iter().map(|byte| format!("\\{byte:02x}")).collect();
            format!("(data (i32.const {}) \"{escaped}\")\n", text_at(at))
        })
        .collect();
    let functions: String = [
        ("authentication", "authenticate", 5, 3),
        ("authorization", "authorize", 7, 5),
        ("filtering", "filter", 6, 4),
        ("routing", "route", 6, 4),
        ("rpc", "call", 6, 4),
    ]
    .map(|(interface, function, params, data)| {
        format!(
            "(func (export \"tidegate:plugin/{interface}@0.1.0#{function}\") (param {}) (result i32) (local.get {data}))\n",
            "i32 ".repeat(params)
        )
    })
    .concat();
    texts + &functions
}

/// What strings and lists of a made-up verdict may point at.
const TEXTS: [&[u8]; 8] = [
    b"{\"a\":[1,2,3]}",
    b"not json",
    b"\xff\xfe\x80 no utf-8",
    b"chat:lobby",
    b"with\nline\x1b[31m\x00",
    b"{\"op\":\"and\",\"nodes\":[{\"key\":\"k\",\"cmp\":\"eq\",\"val\":\"v\"}]}",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"",
];

fn text_at(at: usize) -> usize {
    2_048 + at * 128
}

/// A made-up verdict: words that are tags, lengths, addresses of texts, numbers out of every range.
fn verdict(rng: &mut StdRng) -> Vec<u8> {
    let words = rng.random_range(1..40);
    let mut bytes = Vec::new();
    for _ in 0..words {
        let word: u32 = match rng.random_range(0..10) {
            0..=3 => rng.random_range(0..5),
            4..=5 => u32::try_from(text_at(rng.random_range(0..TEXTS.len()))).unwrap(),
            6 => rng.random_range(0..80),
            7 => [400, 1_999, 2_000, 4_000, 4_999, 5_000, 103][rng.random_range(0..7)],
            8 => {
                [0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x1_0000, 0x2_0000][rng.random_range(0..5)]
            }
            _ => rng.random(),
        };
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Asks the one plugin that is bound, and looks at what comes back with the eyes of the node.
fn check_answer(sandbox: &Sandbox, hook: Hook, data: &[u8]) {
    let peer = peer("ann");
    let data = bytes::Bytes::copy_from_slice(data);
    let limit = 64 << 10;
    let failed = |failure: &HookFailure| {
        let story = sandbox
            .explain(&failure.trace_id)
            .expect("failures are told");
        match &story.steps.last().expect("somebody was asked").ended {
            StepEnd::Failed { kind, detail, .. } => {
                assert_ne!(*kind, FailureKind::HostPanic, "{detail}");
            }
            StepEnd::Answered(word) => panic!("failed with the answer {word}"),
        }
    };
    match hook {
        Hook::Authentication => {
            let question = AuthenticationQuestion {
                reason: AuthenticationReason::Connect,
                peer,
                token: "t".into(),
                token_check: TokenCheck::Absent,
                data,
            };
            match ready(sandbox.authenticate(question)).map(|outcome| outcome.verdict) {
                Ok(AuthenticationVerdict::NotMine) => {}
                Ok(AuthenticationVerdict::Accept(identity)) => {
                    assert!(identity.user.len() <= 255 && identity.subscriptions.len() <= 128);
                    assert!(
                        [&identity.info, &identity.data, &identity.meta]
                            .iter()
                            .all(|json| is_json_or_empty(json))
                    );
                }
                Ok(AuthenticationVerdict::Refuse(refusal)) => check_refusal(&refusal),
                Err(failure) => failed(&failure),
            }
        }
        Hook::Authorization => {
            let question = AuthorizationQuestion {
                reason: AuthorizationReason::Subscribe,
                peer,
                channel: "room".into(),
                data,
            };
            match ready(sandbox.authorize(question)).map(|outcome| outcome.verdict) {
                Ok(AuthorizationVerdict::NotMine) => {}
                Ok(AuthorizationVerdict::Allow(grant)) => {
                    assert!(is_json_or_empty(&grant.info) && is_json_or_empty(&grant.data));
                    assert!(grant.audience.attributes.len() <= 4);
                }
                Ok(AuthorizationVerdict::Refuse(refusal)) => check_refusal(&refusal),
                Err(failure) => failed(&failure),
            }
        }
        Hook::Filtering => match ready(sandbox.filter(draft("room", &data))).map(|o| o.verdict) {
            Ok(FilteringVerdict::Pass(draft)) => assert!(draft.data.len() <= limit),
            Ok(FilteringVerdict::Drop) => {}
            Ok(FilteringVerdict::Refuse(refusal)) => check_refusal(&refusal),
            Err(failure) => failed(&failure),
        },
        Hook::Routing => match ready(sandbox.route(draft("room", &data))).map(|o| o.verdict) {
            Ok(RoutingVerdict::Keep(_)) => {}
            Ok(RoutingVerdict::Routed(_, destinations)) => assert!(destinations.len() <= 100),
            Ok(RoutingVerdict::Refuse(refusal)) => check_refusal(&refusal),
            Err(failure) => failed(&failure),
        },
        Hook::Rpc => {
            let question = RpcQuestion {
                peer,
                method: "m".into(),
                data,
            };
            match ready(sandbox.rpc(question)).map(|outcome| outcome.verdict) {
                Ok(RpcVerdict::NotMine) => {}
                Ok(RpcVerdict::Reply(reply)) => assert!(reply.len() <= limit),
                Ok(RpcVerdict::Refuse(refusal)) => check_refusal(&refusal),
                Err(failure) => failed(&failure),
            }
        }
        Hook::Events | Hook::Schedule => unreachable!("they answer nothing that is made up here"),
    }
}

fn is_json_or_empty(bytes: &[u8]) -> bool {
    bytes.is_empty() || serde_json::from_slice::<serde_json::Value>(bytes).is_ok()
}

#[track_caller]
fn check_refusal(refusal: &Refusal) {
    match refusal {
        Refusal::Error { code, reason } => {
            assert!(
                matches!(code, 103 | 400..=1999) && reason.len() <= 1_024,
                "{refusal:?}"
            );
        }
        Refusal::Disconnect { code, reason } => {
            assert!(
                matches!(code, 3500 | 4000..=4999) && reason.len() <= 123,
                "{refusal:?}"
            );
        }
    }
}

#[test]
fn w7_made_up_verdicts_are_verdicts_within_their_bounds_or_failures() {
    let sandbox = sandbox();
    let plugin: Compiled = compile(&sandbox, &guest(&ASKED, &echoes()));
    let sandbox: Arc<Sandbox> = sandbox;
    let versions = AtomicUsize::new(1);
    cases(1_500, |rng| {
        let hook = ASKED[rng.random_range(0..ASKED.len())];
        // A version of its own for each case: many failures in a row would otherwise open the breaker.
        let version = versions.fetch_add(1, Ordering::Relaxed);
        let mut bound = binding(&plugin, hook);
        bound.version = u32::try_from(version).unwrap();
        bind(&sandbox, vec![bound]);
        check_answer(&sandbox, hook, &verdict(rng));
    });
}

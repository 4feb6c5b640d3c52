//! Guests from WebAssembly text: what no SDK can be made to say, one wrong byte at a time.
//!
//! A guest is one hook and the body of its function, which leaves a pointer to its verdict. Everything else has a
//! value that behaves, and can be replaced by one that does not.

use tidegate_sandbox::Hook;
use tidegate_test_contract as contract;

/// Where bodies write their verdict: 120 bytes, zero when they begin.
pub(crate) const VERDICT: u32 = 16;
/// Where the payload of a verdict begins that has an aligned number in it, and of one that has none.
const WIDE: u32 = VERDICT + 8;
const NARROW: u32 = VERDICT + 4;
/// Where guests keep the text that they hand out: up to the allocator's, or far more behind that.
pub(crate) const TEXT: u32 = 1_024;
pub(crate) const LARGE: u32 = 128 << 10;

/// A memory of half a mebibyte.
const MEMORY: &str = "(memory (export \"memory\") 8)";

/// Gives out what lies between 64 and 128 KiB, over and over again.
const REALLOC: &str = "(global $next (mut i32) (i32.const 65536))
(func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) (local $at i32)
  (local.set $at (i32.and (i32.add (global.get $next) (i32.const 15)) (i32.const -16)))
  (if (i32.gt_u (i32.add (local.get $at) (local.get 3)) (i32.const 131072))
    (then (local.set $at (i32.const 65536))))
  (global.set $next (i32.add (local.get $at) (local.get 3)))
  (local.get $at))";

/// What a guest may import, by the name under which its body calls it.
const IMPORTS: [(&str, &str, &str, &str); 17] = [
    ("log", "log", "log", "(param i32 i32 i32)"),
    ("now", "clock", "now", "(result i64)"),
    ("random", "random", "bytes", "(param i32 i32)"),
    (
        "publish",
        "publishing",
        "publish",
        "(param i32 i32 i32 i32 i32)",
    ),
    ("get", "state", "get", "(param i32 i32 i32)"),
    ("set", "state", "set", "(param i32 i32 i32 i32 i64 i32)"),
    (
        "increment",
        "state",
        "increment",
        "(param i32 i32 i64 i64 i32)",
    ),
    ("tag", "message", "set-tag", "(param i32 i32 i32 i32)"),
    ("key", "message", "set-idempotency-key", "(param i32 i32)"),
    ("delta", "message", "set-delta", "(param i32)"),
    (
        "to-channel",
        "message",
        "to-channel",
        "(param i32 i32 i32 i32 i32)",
    ),
    (
        "to-user",
        "message",
        "to-user",
        "(param i32 i32 i32 i32 i32)",
    ),
    (
        "to-session",
        "message",
        "to-session",
        "(param i32 i32 i32 i32 i32)",
    ),
    (
        "observe",
        "metrics",
        "increment",
        "(param i32 i32 i32 i32 i64 i32)",
    ),
    (
        "disconnect",
        "sessions",
        "disconnect",
        "(param i32 i32 i32 i32 i32 i32 i32)",
    ),
    ("kind-of", "json", "kind-of", "(param i32 i32 i32)"),
    ("header", "context", "header", "(param i32 i32 i32)"),
];

/// A guest in the making.
#[derive(Debug)]
pub(crate) struct Guest {
    hook: Hook,
    imports: String,
    memory: &'static str,
    realloc: &'static str,
    /// Functions, tables, data and so on beside the usual.
    fields: String,
    body: String,
}

impl Guest {
    /// One that does this when its hook is asked.
    pub(crate) fn new(hook: Hook, body: impl Into<String>) -> Self {
        let body = body.into();
        let called = |name: &str| {
            let name = format!("(call ${name}");
            body.match_indices(&name).any(|(at, _)| {
                let next = body[at + name.len()..].chars().next();
                next.is_none_or(|next| next == ' ' || next == ')')
            })
        };
        let imports = IMPORTS.iter().filter(|(name, ..)| called(name));
        let imports = imports.map(import).collect();
        Self {
            hook,
            imports,
            memory: MEMORY,
            realloc: REALLOC,
            fields: String::new(),
            body,
        }
    }

    pub(crate) fn hook(&self) -> Hook {
        self.hook
    }

    /// Imports what only the fields beside the body call.
    pub(crate) fn import(mut self, name: &str) -> Self {
        let row = IMPORTS.iter().find(|row| row.0 == name);
        self.imports += &import(row.expect("an import of the list"));
        self
    }

    /// Imports what is in no contract.
    pub(crate) fn imported(mut self, import: &str) -> Self {
        self.imports += import;
        self
    }

    pub(crate) fn memory(mut self, memory: &'static str) -> Self {
        self.memory = memory;
        self
    }

    /// Another allocator: the body of a function of four parameters.
    pub(crate) fn realloc(mut self, realloc: &'static str) -> Self {
        self.realloc = realloc;
        self
    }

    pub(crate) fn fields(mut self, fields: impl AsRef<str>) -> Self {
        self.fields += fields.as_ref();
        self
    }

    /// Text at [`TEXT`], escaped as WebAssembly text wants it.
    pub(crate) fn text(self, text: &str) -> Self {
        self.fields(format!("(data (i32.const {TEXT}) \"{text}\")\n"))
    }

    /// What runs while an instance is made.
    pub(crate) fn start(self, body: &str) -> Self {
        self.fields(format!("(func $start {body}) (start $start)\n"))
    }

    /// What the node calls when it has read the verdict.
    pub(crate) fn post_return(self, body: &str) -> Self {
        let export = export(self.hook);
        self.fields(format!(
            "(func (export \"cabi_post_{export}\") (param i32) {body})\n"
        ))
    }

    /// The core module's text.
    fn module(&self) -> String {
        let Self {
            hook,
            imports,
            memory,
            realloc,
            fields,
            body,
        } = self;
        let realloc = if realloc.starts_with("(global") {
            (*realloc).to_owned()
        } else {
            format!(
                "(func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) {realloc})"
            )
        };
        format!(
            "(module {imports} {memory} {realloc} {fields}
             (func (export \"{}\") {} (result i32) (local $x i32) (local $y i32)
               (memory.fill (i32.const {VERDICT}) (i32.const 0) (i32.const 120))
               {body}))",
            export(*hook),
            params(*hook),
        )
    }

    /// The file.
    pub(crate) fn wasm(&self) -> Vec<u8> {
        let world = format!("include capabilities; export {};", self.hook);
        contract::embed(parse(&self.module()), &world)
    }

    /// The file, with the world `test` of this WIT in the place of the usual.
    pub(crate) fn wasm_in(&self, text: &str) -> Vec<u8> {
        contract::embed_beside(parse(&self.module()), text)
    }
}

fn import((name, interface, function, ty): &(&str, &str, &str, &str)) -> String {
    format!("(import \"tidegate:plugin/{interface}@0.1.0\" \"{function}\" (func ${name} {ty}))\n")
}

/// WebAssembly text as bytes.
#[track_caller]
pub(crate) fn parse(text: &str) -> Vec<u8> {
    match wat::parse_str(text) {
        Ok(bytes) => bytes,
        Err(error) => {
            let end = text.floor_char_boundary(4_000);
            panic!("{error}\n{}", &text[..end])
        }
    }
}

fn export(hook: Hook) -> String {
    let function = match hook {
        Hook::Authentication => "authenticate",
        Hook::Authorization => "authorize",
        Hook::Filtering => "filter",
        Hook::Routing => "route",
        Hook::Rpc => "call",
        Hook::Events => "handle",
        Hook::Schedule => "run",
    };
    format!("tidegate:plugin/{hook}@0.1.0#{function}")
}

fn params(hook: Hook) -> &'static str {
    match hook {
        Hook::Authentication => "(param i32 i32 i32 i32 i32)",
        Hook::Authorization => "(param i32 i32 i32 i32 i32 i32 i32)",
        Hook::Filtering | Hook::Routing | Hook::Rpc => "(param i32 i32 i32 i32 i32 i32)",
        Hook::Events => "(param i32 i32)",
        Hook::Schedule => "(param i32 i32 i64)",
    }
}

/// Never comes back.
pub(crate) const LOOP: &str = "(loop $forever (br $forever)) (unreachable)";

/// Does something for ever.
pub(crate) fn for_ever(what: &str) -> String {
    format!("(loop $forever {what} (br $forever)) (unreachable)")
}

/// Does something so often.
pub(crate) fn times(count: u32, what: &str) -> String {
    format!(
        "(local.set $y (i32.const {count}))
         (loop $again {what} (br_if $again (local.tee $y (i32.sub (local.get $y) (i32.const 1)))))"
    )
}

/// Leaves the verdict, which is the first of its kind (`pass`, `keep`, `not-mine`) if nothing was written.
pub(crate) fn answer() -> String {
    format!("(i32.const {VERDICT})")
}

pub(crate) fn byte(at: u32, value: u32) -> String {
    format!("(i32.store8 (i32.const {at}) (i32.const {value}))\n")
}

pub(crate) fn word(at: u32, value: u32) -> String {
    format!(
        "(i32.store (i32.const {at}) (i32.const {}))\n",
        value.cast_signed()
    )
}

pub(crate) fn long(at: u32, value: u64) -> String {
    format!(
        "(i64.store (i32.const {at}) (i64.const {}))\n",
        value.cast_signed()
    )
}

/// Fills memory with one byte.
pub(crate) fn fill(at: u32, value: u8, len: u32) -> String {
    format!("(memory.fill (i32.const {at}) (i32.const {value}) (i32.const {len}))\n")
}

/// A text or list: pointer and length.
pub(crate) fn slice(at: u32, (pointer, len): (u32, u32)) -> String {
    word(at, pointer) + &word(at + 4, len)
}

/// A text or list that may be absent and is not.
pub(crate) fn some(at: u32, what: (u32, u32)) -> String {
    byte(at, 1) + &slice(at + 4, what)
}

/// Where things are in an identity.
pub(crate) mod identity {
    use super::WIDE;

    pub(crate) const USER: u32 = WIDE;
    pub(crate) const EXPIRES_AT: u32 = WIDE + 8;
    pub(crate) const INFO: u32 = WIDE + 24;
    pub(crate) const DATA: u32 = WIDE + 36;
    pub(crate) const META: u32 = WIDE + 48;
    pub(crate) const SUBSCRIPTIONS: u32 = WIDE + 60;
    /// Of one subscription, which begins with its channel.
    pub(crate) const SUBSCRIPTION_BYTES: u32 = 64;
}

/// Where things are in a grant.
pub(crate) mod grant {
    use super::WIDE;

    pub(crate) const PRESENCE: u32 = WIDE;
    pub(crate) const INFO: u32 = WIDE + 12;
    pub(crate) const DATA: u32 = WIDE + 24;
    pub(crate) const EXPIRES_AT: u32 = WIDE + 40;
    pub(crate) const PREDICATE: u32 = WIDE + 56;
    pub(crate) const CLASS: u32 = WIDE + 68;
    pub(crate) const ATTRIBUTES: u32 = WIDE + 80;
}

/// The second verdict of a hook (`accept`, `allow`, `replace`, `routed`, `reply`), with these parts.
pub(crate) fn says(parts: impl AsRef<str>) -> String {
    format!("{}{}{}", byte(VERDICT, 1), parts.as_ref(), answer())
}

/// The second verdict with data: `replace` or `reply`.
pub(crate) fn hands_out(what: (u32, u32)) -> String {
    says(slice(NARROW, what))
}

/// A refusal: kind 0 is an error, 1 a disconnect.
pub(crate) fn refuses(hook: Hook, kind: u32, code: u32, reason: (u32, u32)) -> String {
    let (verdict, payload) = match hook {
        Hook::Authentication | Hook::Authorization => (2, WIDE),
        Hook::Filtering => (3, NARROW),
        Hook::Routing | Hook::Rpc => (2, NARROW),
        Hook::Events | Hook::Schedule => unreachable!("they refuse nothing"),
    };
    [
        byte(VERDICT, verdict),
        byte(payload, kind),
        word(payload + 4, code),
        slice(payload + 8, reason),
        answer(),
    ]
    .concat()
}

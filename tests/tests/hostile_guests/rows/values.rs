//! Guests that answer with what no answer may be: pointers, lengths, kinds and texts out of their range, in every
//! field of every verdict.

use tidegate_sandbox::{
    FailureKind::{self, BadValue},
    Hook::{self, Authentication, Authorization, Filtering, Routing, Rpc},
};

use super::{Row, answers, fails};
use crate::wat::{
    Guest, LARGE, TEXT, VERDICT, answer, byte, fill, grant, hands_out, identity, long, refuses,
    says, slice, some, word,
};

const BAD: &[FailureKind] = &[BadValue];
/// A text that begins within memory and ends outside, and one that does both outside.
const PAST_THE_END: (u32, u32) = (500_000, 100_000);
const NOWHERE: (u32, u32) = (0xffff_f000, 0x2000);
const HALF_OF_EVERYTHING: (u32, u32) = (TEXT, 0x7fff_ffff);

pub(crate) fn rows() -> Vec<Row> {
    [shapes(), refusals(), identities(), grants(), data()]
        .into_iter()
        .flatten()
        .collect()
}

/// What the border between guest and host checks.
fn shapes() -> Vec<Row> {
    let guest = |hook, body: String| Guest::new(hook, body);
    let at = |place: i32| format!("(i32.const {place})");
    vec![
        fails(
            "verdict-that-does-not-exist",
            &guest(Filtering, byte(VERDICT, 9) + &answer()),
            BAD,
            "discriminant",
        ),
        fails(
            "verdict-that-does-not-exist-in-authentication",
            &guest(Authentication, byte(VERDICT, 255) + &answer()),
            BAD,
            "discriminant",
        ),
        fails(
            "verdict-outside-of-memory",
            &guest(Filtering, at(-16)),
            BAD,
            "out of bounds",
        ),
        fails(
            "verdict-half-outside-of-memory",
            &guest(Authentication, at(524280)),
            BAD,
            "out of bounds",
        ),
        fails(
            "verdict-out-of-line",
            &guest(Filtering, at(17)),
            BAD,
            "aligned",
        ),
        fails(
            "replacement-from-outside-of-memory",
            &guest(Filtering, hands_out(NOWHERE)),
            BAD,
            "out of bounds",
        ),
        fails(
            "replacement-past-the-end-of-memory",
            &guest(Filtering, hands_out(PAST_THE_END)),
            BAD,
            "out of bounds",
        ),
        fails(
            "reply-of-two-gibibytes",
            &guest(Rpc, hands_out(HALF_OF_EVERYTHING)),
            BAD,
            "out of bounds",
        ),
        fails(
            "user-from-outside-of-memory",
            &guest(Authentication, says(slice(identity::USER, NOWHERE))),
            BAD,
            "out of bounds",
        ),
        fails(
            "user-that-is-no-text",
            &guest(Authentication, says(slice(identity::USER, (TEXT, 2)))).text("\\c3\\28"),
            BAD,
            "utf-8",
        ),
        fails(
            "reason-that-is-no-text",
            &guest(Filtering, refuses(Filtering, 0, 400, (TEXT, 3))).text("\\ed\\a0\\80"),
            BAD,
            "utf-8",
        ),
        fails(
            "refusal-of-a-kind-that-does-not-exist",
            &guest(Rpc, refuses(Rpc, 7, 400, (TEXT, 0))),
            BAD,
            "discriminant",
        ),
        fails(
            "option-that-is-neither",
            &guest(Authentication, says(byte(identity::INFO, 3))),
            BAD,
            "discriminant",
        ),
        fails(
            "option-in-a-grant-that-is-neither",
            &guest(Authorization, says(byte(grant::PRESENCE, 200))),
            BAD,
            "discriminant",
        ),
        fails(
            "subscriptions-of-absurd-number",
            &guest(
                Authentication,
                says(slice(identity::SUBSCRIPTIONS, (2_048, 0x0fff_ffff))),
            ),
            BAD,
            "out of bounds",
        ),
        fails(
            "subscriptions-out-of-line",
            &guest(
                Authentication,
                says(slice(identity::SUBSCRIPTIONS, (2_049, 1))),
            ),
            BAD,
            "aligned",
        ),
        fails(
            // Few bytes of the guest that would be many on the host.
            "subscriptions-of-half-a-mebibyte",
            &guest(
                Authentication,
                says(slice(identity::SUBSCRIPTIONS, (2_048, 8_000))),
            ),
            BAD,
            "fuel",
        ),
        fails(
            "attributes-of-half-a-mebibyte",
            &guest(
                Authorization,
                says(slice(grant::ATTRIBUTES, (2_048, 65_000))),
            ),
            BAD,
            "fuel",
        ),
        answers(
            "allocator-that-gives-null",
            &guest(Rpc, answer()).realloc("(i32.const 0)"),
            2,
            None,
        ),
        answers(
            "allocator-that-gives-the-same-place",
            &guest(Rpc, answer()).realloc("(i32.const 4096)"),
            2,
            None,
        ),
        fails(
            "allocator-that-gives-what-is-not-there",
            &guest(Rpc, answer()).realloc("(i32.const -4)"),
            BAD,
            "beyond end of memory",
        ),
        fails(
            "allocator-that-gives-the-last-byte",
            &guest(Rpc, answer()).realloc("(i32.const 524287)"),
            BAD,
            "beyond end of memory",
        ),
    ]
}

fn refusals() -> Vec<Row> {
    let guest = |hook, kind, code, reason| {
        Guest::new(
            hook,
            fill(LARGE, b'r', 100_000) + &refuses(hook, kind, code, (LARGE, reason)),
        )
    };
    vec![
        fails(
            "error-code-of-the-protocol",
            &guest(Filtering, 0, 100, 0),
            BAD,
            "error code 100",
        ),
        fails(
            "error-code-of-a-disconnect",
            &guest(Routing, 0, 4_500, 0),
            BAD,
            "error code 4500",
        ),
        fails(
            "error-code-without-measure",
            &guest(Rpc, 0, u32::MAX, 0),
            BAD,
            "error code 4294967295",
        ),
        fails(
            "disconnect-code-of-websocket",
            &guest(Authentication, 1, 1_000, 0),
            BAD,
            "disconnect code 1000",
        ),
        fails(
            "disconnect-code-of-the-protocol",
            &guest(Authorization, 1, 3_000, 0),
            BAD,
            "disconnect code 3000",
        ),
        fails(
            "disconnect-code-without-measure",
            &guest(Filtering, 1, u32::MAX, 0),
            BAD,
            "disconnect code 4294967295",
        ),
        fails(
            "disconnect-reason-that-fits-no-frame",
            &guest(Filtering, 1, 4_000, 124),
            BAD,
            "more than 123",
        ),
        fails(
            "error-reason-without-measure",
            &guest(Authorization, 0, 400, 100_000),
            BAD,
            "more than 1024",
        ),
    ]
}

fn identities() -> Vec<Row> {
    let guest = |parts: String| Guest::new(Authentication, says(parts));
    let user = slice(identity::USER, (TEXT, 3));
    let with = |parts: String| guest(format!("{user}{parts}")).text("ann");
    let subscribed = |channel: (u32, u32), number: u32| {
        let each: String = (0..number)
            .map(|nth| slice(2_048 + nth * identity::SUBSCRIPTION_BYTES, channel))
            .collect();
        each + &slice(identity::SUBSCRIPTIONS, (2_048, number))
    };
    vec![
        fails(
            "user-id-too-long",
            &guest(fill(LARGE, b'u', 256) + &slice(identity::USER, (LARGE, 256))),
            BAD,
            "at most 255",
        ),
        fails(
            "user-id-without-measure",
            &guest(fill(LARGE, b'u', 150_000) + &slice(identity::USER, (LARGE, 150_000))),
            BAD,
            "at most 255",
        ),
        fails(
            "user-id-with-control-characters",
            &guest(slice(identity::USER, (TEXT, 5))).text("a\\0a\\1b[m"),
            BAD,
            "control characters",
        ),
        fails(
            "identity-info-that-is-no-json",
            &with(some(identity::INFO, (TEXT, 3))),
            BAD,
            "identity.info",
        ),
        fails(
            "identity-data-that-is-no-json",
            &with(some(identity::DATA, (TEXT, 3))),
            BAD,
            "identity.data",
        ),
        fails(
            "identity-meta-that-is-no-json",
            &with(some(identity::META, (TEXT, 3))),
            BAD,
            "identity.meta",
        ),
        fails(
            "identity-meta-larger-than-a-message",
            &with(fill(LARGE, b'1', 65_537) + &some(identity::META, (LARGE, 65_537))),
            BAD,
            "identity.meta",
        ),
        fails(
            "identity-info-nested-without-end",
            &with(
                fill(LARGE, b'[', 32_000)
                    + &fill(LARGE + 32_000, b']', 32_000)
                    + &some(identity::INFO, (LARGE, 64_000)),
            ),
            BAD,
            "identity.info",
        ),
        fails(
            "subscriptions-by-the-thousand",
            &with(subscribed((TEXT, 3), 129)),
            BAD,
            "at most 128",
        ),
        fails(
            "subscription-to-nothing",
            &with(subscribed((TEXT, 0), 1)),
            BAD,
            "channel name",
        ),
        fails(
            "subscription-to-a-giant-channel",
            &with(fill(LARGE, b'c', 60_000) + &subscribed((LARGE, 60_000), 1)),
            BAD,
            "channel name",
        ),
        fails(
            "subscription-to-control-characters",
            &guest(user.clone() + &subscribed((TEXT, 6), 1)).text("ann\\00\\1b\\7f"),
            BAD,
            "printable",
        ),
        answers(
            "identity-that-ends-with-time-itself",
            &with(byte(identity::EXPIRES_AT, 1) + &long(identity::EXPIRES_AT + 8, u64::MAX)),
            2,
            None,
        ),
    ]
}

fn grants() -> Vec<Row> {
    let guest = |parts: String| Guest::new(Authorization, says(parts));
    let nested = |at: u32, depth: u32| {
        // {"nodes":[{"nodes":[… nine bytes a level, copied from the one before.
        let mut text = String::new();
        for nth in 0..depth {
            text += &format!(
                "(memory.copy (i32.const {}) (i32.const {TEXT}) (i32.const 10))\n",
                at + nth * 10
            );
        }
        text
    };
    vec![
        fails(
            "grant-info-that-is-no-json",
            &guest(some(grant::INFO, (TEXT, 3))).text("no!"),
            BAD,
            "grant.info",
        ),
        fails(
            "grant-data-larger-than-a-message",
            &guest(fill(LARGE, b'1', 70_000) + &some(grant::DATA, (LARGE, 70_000))),
            BAD,
            "grant.data",
        ),
        fails(
            "predicate-that-is-no-filter",
            &guest(some(grant::PREDICATE, (TEXT, 3))).text("no!"),
            BAD,
            "audience predicate",
        ),
        fails(
            "predicate-of-unknown-fields",
            &guest(some(grant::PREDICATE, (TEXT, 10))).text("{\\22magic\\22:1}"),
            BAD,
            "audience predicate",
        ),
        fails(
            "predicate-nested-without-end",
            &guest(nested(LARGE, 2_000) + &some(grant::PREDICATE, (LARGE, 20_000)))
                .text("{\\22nodes\\22:["),
            BAD,
            "audience predicate",
        ),
        fails(
            "class-without-a-name",
            &guest(some(grant::CLASS, (TEXT, 0))),
            BAD,
            "audience class",
        ),
        fails(
            "class-without-measure",
            &guest(fill(LARGE, b'c', 60_000) + &some(grant::CLASS, (LARGE, 60_000))),
            BAD,
            "audience class",
        ),
        fails(
            "attributes-by-the-thousand",
            &guest(slice(grant::ATTRIBUTES, (2_048, 1_000))),
            BAD,
            "audience attributes",
        ),
        answers(
            "grant-that-ends-with-time-itself",
            &guest(byte(grant::EXPIRES_AT, 1) + &long(grant::EXPIRES_AT + 8, u64::MAX)),
            2,
            None,
        ),
    ]
}

fn data() -> Vec<Row> {
    let guest = |hook: Hook, parts: String| Guest::new(hook, parts);
    let deep = fill(LARGE, b'[', 32_000) + &fill(LARGE + 32_000, b']', 32_000);
    vec![
        fails(
            "replacement-of-nothing",
            &guest(Filtering, hands_out((TEXT, 0))),
            BAD,
            "is empty",
        ),
        fails(
            "replacement-that-is-no-json",
            &guest(Filtering, hands_out((TEXT, 4))).text("{no}"),
            BAD,
            "not valid JSON",
        ),
        fails(
            "replacement-larger-than-a-message",
            &guest(
                Filtering,
                fill(LARGE, b'1', 65_537) + &hands_out((LARGE, 65_537)),
            ),
            BAD,
            "more than the 65536",
        ),
        fails(
            "replacement-nested-without-end",
            &guest(Filtering, deep.clone() + &hands_out((LARGE, 64_000))),
            BAD,
            "not valid JSON",
        ),
        fails(
            "reply-that-is-no-json",
            &guest(Rpc, hands_out((TEXT, 4))).text("\\00\\01\\02\\03"),
            BAD,
            "not valid JSON",
        ),
        fails(
            "reply-nested-without-end",
            &guest(Rpc, deep + &hands_out((LARGE, 64_000))),
            BAD,
            "not valid JSON",
        ),
        answers(
            "routed-to-nowhere",
            &guest(Routing, says(word(VERDICT + 4, u32::MAX))),
            2,
            None,
        ),
    ]
}

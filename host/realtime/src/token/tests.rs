use regex::Regex;
use serde_json::{Value, json};

use super::*;
use crate::session::Failure;

const SECRET: &[u8] = b"thirty-two bytes are the least it takes";
const NOW: u64 = 1_700_000_000;

fn config() -> TokenConfig {
    TokenConfig {
        hmac_secret: Some(HmacSecret::new(SECRET)),
        ..TokenConfig::default()
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Signs whatever stands in the two segments.
fn sign(secret: &[u8], header: &str, payload: &str) -> String {
    let signed = format!("{}.{}", encode(header), encode(payload));
    let mac = Hmac::<Sha256>::new_from_slice(secret)
        .unwrap()
        .chain_update(&signed);
    format!("{signed}.{}", encode(mac.finalize().into_bytes()))
}

fn token(claims: &Value) -> String {
    sign(
        SECRET,
        r#"{"alg":"HS256","typ":"JWT"}"#,
        &claims.to_string(),
    )
}

fn outcome(config: &TokenConfig, token: &str) -> Result<(), TokenError> {
    config.verify(token, NOW).map(|_| ())
}

#[track_caller]
fn refused(token: &str, expected: TokenError) {
    assert_eq!(outcome(&config(), token), Err(expected), "{token:.200}");
}

#[test]
fn a_valid_token_gives_its_claims() {
    let token = token(&json!({
        "sub": "42", "exp": NOW + 60, "info": {"name": "x"}, "meta": {"role": "operator"},
        "subs": {"news": {"info": {"a": 1}, "override": {"force_recovery": {"value": true}}}},
        "channels": ["ignored"],
    }));
    let claims = config().verify(&token, NOW).unwrap();
    assert_eq!(&*claims.user, "42");
    assert_eq!(claims.expires_at, Some(NOW + 60));
    assert_eq!(claims.info, r#"{"name":"x"}"#);
    assert_eq!(claims.meta, r#"{"role":"operator"}"#);
    assert_eq!(claims.subscriptions.len(), 1);
    assert_eq!(&*claims.subscriptions[0].channel, "news");
    assert_eq!(claims.subscriptions[0].grant.force_recovery, Some(true));
    assert_eq!(claims.subscriptions[0].grant.presence, None);
    assert_eq!(claims.subscriptions[0].grant.info, r#"{"a":1}"#);
}

#[test]
fn a1_only_the_family_of_the_key_is_accepted() {
    for alg in [
        "none", "None", "NONE", "", "RS256", "ES256", "EdDSA", "PS256", "hs256", "HS1", "HS256 ",
    ] {
        let header = json!({ "alg": alg }).to_string();
        refused(
            &sign(SECRET, &header, "{}"),
            TokenError::Invalid(Fault::Algorithm),
        );
    }
    refused(
        &sign(SECRET, r#"{"typ":"JWT"}"#, "{}"),
        TokenError::Invalid(Fault::Algorithm),
    );
}

#[test]
fn a1_the_allow_list_narrows_the_family() {
    let narrow = TokenConfig {
        algorithms: vec![TokenAlgorithm::Hs512],
        ..config()
    };
    let verdict = outcome(&narrow, &token(&json!({})));
    assert_eq!(verdict, Err(TokenError::Invalid(Fault::Algorithm)));
}

#[test]
fn a2_size_and_segments_come_first() {
    refused(
        &"a".repeat(MAX_TOKEN_BYTES + 1),
        TokenError::Invalid(Fault::TooLarge),
    );
    for bad in ["", "a", "a.b", "a.b.c.d", "a.b.c.d.e", "..."] {
        refused(bad, TokenError::Invalid(Fault::Segments));
    }
}

#[test]
fn a2_decoding_is_strict() {
    let good = token(&json!({ "sub": "1" }));
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("three segments");
    };
    refused(
        &format!("{header}=.{payload}.{signature}"),
        TokenError::Invalid(Fault::Encoding),
    );
    refused(
        &format!("{header}.{payload}.{signature}="),
        TokenError::Invalid(Fault::Encoding),
    );
    refused(&format!(" {good}"), TokenError::Invalid(Fault::Encoding));
    // 32 bytes end in a sextet with two spare bits: any but zero is another spelling of the same signature.
    let last = signature.chars().last().unwrap();
    let spare = char::from(u8::try_from(last).unwrap() + 1);
    let respelled = format!("{}{spare}", &signature[..signature.len() - 1]);
    refused(
        &format!("{header}.{payload}.{respelled}"),
        TokenError::Invalid(Fault::Encoding),
    );
    refused(
        &sign(SECRET, r#"{"alg":"HS256","alg":"HS256"}"#, "{}"),
        TokenError::Invalid(Fault::Json),
    );
    refused(
        &sign(SECRET, r#"{"alg":"HS256"}"#, r#"{"sub":"1","sub":"2"}"#),
        TokenError::Invalid(Fault::Json),
    );
    refused(
        &sign(SECRET, r#"{"ALG":"HS256"}"#, "{}"),
        TokenError::Invalid(Fault::Algorithm),
    );
    refused(
        &sign(SECRET, r#"["HS256"]"#, "{}"),
        TokenError::Invalid(Fault::Json),
    );
    refused(
        &sign(SECRET, r#"{"alg":"HS256"}"#, "[]"),
        TokenError::Invalid(Fault::Json),
    );
    refused(
        &sign(SECRET, r#"{"alg":"HS256"} x"#, "{}"),
        TokenError::Invalid(Fault::Json),
    );
}

#[test]
fn a2_no_claim_counts_before_the_signature() {
    let header = r#"{"alg":"HS256"}"#;
    let expired = json!({ "exp": 1 }).to_string();
    refused(
        &sign(
            b"another secret, also long enough to be one",
            header,
            &expired,
        ),
        TokenError::Invalid(Fault::Signature),
    );
    let stripped = token(&json!({}));
    let stripped = &stripped[..=stripped.rfind('.').unwrap()];
    refused(stripped, TokenError::Invalid(Fault::Signature));
    refused(
        &sign(b"", header, "{}"),
        TokenError::Invalid(Fault::Signature),
    );
}

#[test]
fn a3_critical_compressed_nested_and_encrypted_tokens_are_refused() {
    for header in [
        r#"{"alg":"HS256","crit":["exp"]}"#,
        r#"{"alg":"HS256","zip":"DEF"}"#,
        r#"{"alg":"HS256","b64":false}"#,
        r#"{"alg":"HS256","enc":"A256GCM"}"#,
    ] {
        refused(
            &sign(SECRET, header, "{}"),
            TokenError::Invalid(Fault::Header),
        );
    }
    for header in [
        r#"{"alg":"HS256","cty":"JWT"}"#,
        r#"{"alg":"HS256","typ":"secevent+jwt"}"#,
    ] {
        refused(
            &sign(SECRET, header, "{}"),
            TokenError::Invalid(Fault::Header),
        );
    }
}

#[test]
fn a3_keys_inside_the_header_are_ignored() {
    for header in [
        r#"{"alg":"HS256","jku":"https://evil.example/keys"}"#,
        r#"{"alg":"HS256","jwk":{"kty":"oct","k":"AAAA"}}"#,
        r#"{"alg":"HS256","x5u":"file:///etc/passwd","x5c":["AAAA"]}"#,
        r#"{"alg":"HS256","kid":"../../../dev/null"}"#,
    ] {
        assert!(config().verify(&sign(SECRET, header, "{}"), NOW).is_ok());
        refused(
            &sign(b"attacker", header, "{}"),
            TokenError::Invalid(Fault::Signature),
        );
    }
}

#[test]
fn a4_times_must_be_whole_numbers() {
    for exp in [
        r#""1700000060""#,
        "1700000060.5",
        "-1",
        "1e400",
        "true",
        "null",
        "[1]",
    ] {
        for name in ["exp", "nbf", "iat"] {
            let payload = format!(r#"{{"{name}":{exp}}}"#);
            let verdict = config().verify(&sign(SECRET, r#"{"alg":"HS256"}"#, &payload), NOW);
            assert!(
                matches!(verdict, Err(TokenError::Invalid(_))),
                "{payload} {verdict:?}"
            );
        }
    }
}

#[test]
fn a4_exp_and_nbf_have_ten_seconds_of_leeway() {
    assert!(
        config()
            .verify(&token(&json!({ "exp": NOW - LEEWAY_SECONDS })), NOW)
            .is_ok()
    );
    refused(
        &token(&json!({ "exp": NOW - LEEWAY_SECONDS - 1 })),
        TokenError::Expired,
    );
    assert!(
        config()
            .verify(&token(&json!({ "nbf": NOW + LEEWAY_SECONDS })), NOW)
            .is_ok()
    );
    refused(
        &token(&json!({ "nbf": NOW + LEEWAY_SECONDS + 1 })),
        TokenError::Expired,
    );
}

#[test]
fn a4_exp_can_be_required() {
    let strict = TokenConfig {
        require_exp: true,
        ..config()
    };
    let verdict = outcome(&strict, &token(&json!({ "sub": "1" })));
    assert_eq!(verdict, Err(TokenError::Invalid(Fault::Claim)));
    assert_eq!(outcome(&config(), &token(&json!({ "sub": "1" }))), Ok(()));
}

#[test]
fn a4_a_subscription_token_does_not_connect() {
    refused(
        &token(&json!({ "sub": "1", "channel": "news" })),
        TokenError::Invalid(Fault::SubscriptionToken),
    );
}

#[test]
fn a4_audience_and_issuer_must_match_where_they_are_set() {
    let strict = TokenConfig {
        audience: Some(TextRule::Exactly("chat".into())),
        issuer: Some(TextRule::Matches(
            Regex::new("^https://issuer\\.example$").unwrap(),
        )),
        ..config()
    };
    let verify = |claims: Value| strict.verify(&token(&claims), NOW);
    let issuer = "https://issuer.example";
    assert!(verify(json!({ "aud": "chat", "iss": issuer })).is_ok());
    assert!(verify(json!({ "aud": ["other", "chat"], "iss": issuer })).is_ok());
    for (aud, iss) in [
        (json!("other"), json!(issuer)),
        (json!(["other"]), json!(issuer)),
        (json!([]), json!(issuer)),
        (json!(["chat", 1]), json!(issuer)),
        (json!(null), json!(issuer)),
        (json!("chat"), json!("https://issuer.example/")),
        (json!("chat"), json!("https://issuer.example.evil")),
    ] {
        let verdict = verify(json!({ "aud": aud, "iss": iss }));
        assert!(
            matches!(verdict, Err(TokenError::Invalid(_))),
            "{aud} {iss}"
        );
    }
    assert!(verify(json!({})).is_err());
}

#[test]
fn a6_every_failure_reads_the_same() {
    let wire = |fault: Fault| Failure::from(TokenError::Invalid(fault));
    for fault in [
        Fault::Algorithm,
        Fault::Json,
        Fault::TooLarge,
        Fault::Audience,
    ] {
        assert_eq!(wire(fault), wire(Fault::Signature));
    }
    assert_eq!(
        Failure::from(TokenError::NotConfigured),
        wire(Fault::Signature)
    );
    assert!(!format!("{:?}", config()).contains("thirty-two"));
}

#[test]
fn expire_at_replaces_exp_for_the_connection() {
    let expires_at = |claims: Value| config().verify(&token(&claims), NOW).unwrap().expires_at;
    assert_eq!(expires_at(json!({ "exp": NOW + 9 })), Some(NOW + 9));
    assert_eq!(
        expires_at(json!({ "exp": NOW + 9, "expire_at": NOW + 99 })),
        Some(NOW + 99)
    );
    assert_eq!(expires_at(json!({ "exp": NOW + 9, "expire_at": 0 })), None);
    assert_eq!(expires_at(json!({ "exp": NOW + 9, "expire_at": -1 })), None);
}

#[test]
fn the_previous_secret_counts_until_its_time() {
    let old = b"the secret before, long enough as well";
    let rotated = TokenConfig {
        hmac_previous_secret: Some(HmacSecret::new(&old[..])),
        hmac_previous_valid_until: Some(NOW + 10),
        ..config()
    };
    let token = sign(old, r#"{"alg":"HS256"}"#, "{}");
    assert!(rotated.verify(&token, NOW).is_ok());
    let later = rotated.verify(&token, NOW + 11).map(|_| ());
    assert_eq!(later, Err(TokenError::Invalid(Fault::Signature)));
}

#[test]
fn another_claim_can_name_the_user() {
    let config = TokenConfig {
        user_id_claim: Some("user_id".into()),
        ..config()
    };
    let claims = config.verify(&token(&json!({ "sub": "a", "user_id": "b" })), NOW);
    assert_eq!(&*claims.unwrap().user, "b");
}

#[test]
fn a1_a_weak_secret_signs_nothing_unless_allowed() {
    let weak = TokenConfig {
        hmac_secret: Some(HmacSecret::new("short")),
        ..TokenConfig::default()
    };
    let token = sign(b"short", r#"{"alg":"HS256"}"#, "{}");
    assert_eq!(
        outcome(&weak, &token),
        Err(TokenError::Invalid(Fault::Signature))
    );
    let allowed = TokenConfig {
        insecure_allow_weak_hmac: true,
        ..weak
    };
    assert_eq!(outcome(&allowed, &token), Ok(()));
}

#[test]
fn a2_members_repeated_in_depth_and_bad_text_are_refused() {
    let header = r#"{"alg":"HS256"}"#;
    for claims in [
        r#"{"info":{"a":1,"a":2}}"#,
        r#"{"meta":{"x":[{"a":1,"a":2}]}}"#,
        r#"{"sub":"1","\u0073ub":"2"}"#,
        r#"{"sub":"\ud800"}"#,
        "",
        "{",
    ] {
        refused(
            &sign(SECRET, header, claims),
            TokenError::Invalid(Fault::Json),
        );
    }
    let signed = format!("{}.{}", encode(header), encode([0xff, 0xfe]));
    let mac = Hmac::<Sha256>::new_from_slice(SECRET)
        .unwrap()
        .chain_update(&signed);
    let token = format!("{signed}.{}", encode(mac.finalize().into_bytes()));
    refused(&token, TokenError::Invalid(Fault::Encoding));
}

#[test]
fn a4_claims_of_the_wrong_type_are_refused() {
    for claims in [
        json!({ "sub": 42 }),
        json!({ "jti": 1 }),
        json!({ "meta": "text" }),
        json!({ "channels": "news" }),
        json!({ "channels": [1] }),
        json!({ "b64info": 7 }),
        json!({ "b64info": "*" }),
        json!({ "expire_at": "soon" }),
        json!({ "subs": { "news": { "override": { "presence": { "value": "yes" } } } } }),
    ] {
        refused(&token(&claims), TokenError::Invalid(Fault::Claim));
    }
}

#[test]
fn without_keys_no_token_is_good() {
    let none = TokenConfig::default();
    assert_eq!(
        outcome(&none, &token(&json!({}))),
        Err(TokenError::NotConfigured)
    );
}

//! `redact-audit`: nobody but the entitled sees an original, and none goes anywhere without a record.

use super::*;

const WARD: &str = "clinic:ward7";
const FULL: &str = "clinic:ward7:full";
const AUDIT: &str = "audit:clinic";

fn settings() -> Value {
    json!({
        "fields": ["/patient/name", "/**/diagnosis"],
        "ids": ["MRN-####"],
        "full_channel": "{channel}:full",
        "audit_channel": AUDIT,
        "entitled": { "roles": ["doctor"] },
        "auditors": { "users": ["audrey"] },
    })
}

async fn node(settings: &Value) -> Node {
    let mut audit = open("audit");
    audit["allow_subscribe_for_client"] = false.into();
    let node = builder().namespace(open("clinic")).namespace(audit).start();
    node.install("redact-audit", "routing@namespace:clinic", settings)
        .await;
    let settings = settings.to_string();
    let bound = node
        .cli(&[
            "plugin",
            "bind",
            "redact-audit",
            "authorization",
            "--config",
            &settings,
        ])
        .await;
    assert_eq!(bound.code, Some(0), "{}", bound.stderr);
    node
}

fn note() -> Value {
    json!({
        "patient": { "name": "Ann Example", "bed": 3 },
        "findings": [{ "diagnosis": { "code": "J45" }, "at": 1 }],
        "text": "MRN-0042, reach her at ann@example.org",
    })
}

fn redacted() -> Value {
    json!({
        "patient": { "name": "[redacted]", "bed": 3 },
        "findings": [{ "diagnosis": "[redacted]", "at": 1 }],
        "text": "[redacted], reach her at [redacted]",
    })
}

#[tokio::test]
async fn nurses_see_the_redacted_form_doctors_the_original_and_auditors_who_sent_it() {
    let node = node(&settings()).await;
    let mut nurse = reader(&node, "nora", &[WARD]).await;
    let mut doctor = join(&node, Codec::Protobuf, "dora", "doctor").await;
    assert!(doctor.subscribe(FULL).await.subscribe.is_some());
    let mut auditor = reader(&node, "audrey", &[AUDIT]).await;
    for codec in CODECS {
        let mut writer = join(&node, codec, "will", "member").await;
        accepted(&writer.publish(WARD, &note()).await);
        assert_eq!(nurse.publication().await.0, redacted());
        assert_eq!(doctor.publication().await.0, note());
        let (record, _) = auditor.publication().await;
        assert_eq!(record["original"], note());
        assert_eq!(
            (&record["channel"], &record["user"]),
            (&json!(WARD), &json!("will"))
        );
        let masked = json!(["/**/diagnosis", "/patient/name", "email", "id"]);
        assert_eq!(record["masked"], masked);
    }
    node.api()
        .call("publish", &json!({ "channel": WARD, "data": note() }))
        .await;
    assert_eq!(auditor.publication().await.0["origin"], "server_api");
    // Who comes late finds what those who were there saw.
    assert_eq!(
        history(&node, WARD).await,
        [redacted(), redacted(), redacted()]
    );
}

#[tokio::test]
async fn only_the_entitled_subscribe_to_originals_and_nobody_writes_them() {
    let node = node(&settings()).await;
    for codec in CODECS {
        let mut nurse = join(&node, codec, "nora", "nurse").await;
        let mut doctor = join(&node, codec, "dora", "doctor").await;
        let mut auditor = join(&node, codec, "audrey", "member").await;
        for (client, full, audit) in [
            (&mut nurse, false, false),
            (&mut doctor, true, false),
            (&mut auditor, false, true),
        ] {
            for (channel, is_allowed) in [(FULL, full), (AUDIT, audit)] {
                let reply = client.subscribe(channel).await;
                assert_eq!(
                    reply.subscribe.is_some(),
                    is_allowed,
                    "{channel}: {reply:?}"
                );
                if !is_allowed {
                    let reason = "you are not entitled to the originals";
                    assert_eq!(error(&reply), (103, reason));
                }
            }
        }
        let reply = doctor.publish(FULL, &note()).await;
        assert_eq!(error(&reply).0, 103, "{reply:?}");
    }
}

#[tokio::test]
async fn without_a_record_nothing_goes_anywhere() {
    let mut settings = settings();
    settings["audit_channel"] = "gone:clinic".into();
    let node = node(&settings).await;
    let mut writer = join(&node, Codec::Json, "will", "member").await;
    assert_eq!(error(&writer.publish(WARD, &note()).await).0, 100);
    assert_eq!(history(&node, WARD).await, [] as [Value; 0]);
    assert_eq!(history(&node, FULL).await, [] as [Value; 0]);
    // What needs no record is published.
    accepted(&writer.publish(WARD, &json!({ "beds": 3 })).await);
    assert_eq!(history(&node, WARD).await, [json!({ "beds": 3 })]);
}

#[tokio::test]
async fn what_cannot_be_read_is_refused() {
    let node = node(&settings()).await;
    let mut writer = join(&node, Codec::Protobuf, "will", "member").await;
    let deep = (0..100).fold(json!(1), |value, _| json!([value]));
    let reply = writer.publish(WARD, &deep).await;
    let (code, reason) = error(&reply);
    assert_eq!(code, 400, "{reason}");
    assert!(reason.contains("nested more than 64 deep"), "{reason}");
    let mut large = note();
    large["text"] = "x".repeat(50_000).into();
    assert_eq!(error(&writer.publish(WARD, &large).await).0, 413);
    assert_eq!(history(&node, WARD).await, [] as [Value; 0]);
    // Refusals are not failures: the plugin goes on.
    accepted(&writer.publish(WARD, &note()).await);
}

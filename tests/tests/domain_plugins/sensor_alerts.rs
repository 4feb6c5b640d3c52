//! `sensor-alerts`: one alert when a value is bad, one when it is good again, whoever measures and whichever version
//! runs.

use super::*;

const HALL: &str = "sensors:hall";

async fn node(changes: &Value) -> Node {
    let mut rule = json!({
        "name": "overheat", "field": "/temp", "device": "/id", "high": 80, "low": 75,
        "alert_channel": "alerts:{rule}", "not_a_number": "refuse",
    });
    for (name, value) in changes.as_object().expect("changes are an object") {
        rule[name] = value.clone();
    }
    let node = builder()
        .namespace(open("sensors"))
        .namespace(open("alerts"))
        .start();
    let settings = json!({ "rules": [rule] });
    node.install("sensor-alerts", "routing@namespace:sensors", &settings)
        .await;
    node
}

/// What of an alert matters here.
fn news(alert: &Value) -> String {
    let text = |name: &str| alert[name].as_str().unwrap_or_default().to_owned();
    format!("{} {} {}", text("device"), text("state"), alert["value"])
}

#[tokio::test]
async fn the_alert_channel_hears_of_each_beginning_and_end_once_and_the_sensors_channel_of_everything()
 {
    let node = node(&json!({})).await;
    let mut display = reader(&node, "display", &[HALL]).await;
    let mut duty = reader(&node, "duty", &["alerts:overheat"]).await;
    for codec in CODECS {
        let mut gateway = join(&node, codec, "gateway", "member").await;
        let values = [70, 81, 95, 76, 80, 74, 79, 85, 75];
        for temp in values {
            let data = json!({ "id": "t-7", "temp": temp });
            accepted(&gateway.publish(HALL, &data).await);
            assert_eq!(display.publication().await.0, data);
        }
        for expected in [
            "t-7 entered 81",
            "t-7 recovered 74",
            "t-7 entered 85",
            "t-7 recovered 75",
        ] {
            let (alert, _) = duty.publication().await;
            assert_eq!(news(&alert), expected, "{alert}");
            assert_eq!(alert["channel"], HALL);
        }
    }
    assert_eq!(history(&node, "alerts:overheat").await.len(), 8);
}

#[tokio::test]
async fn an_alarm_outlives_the_version_that_raised_it() {
    let node = node(&json!({})).await;
    let mut duty = reader(&node, "duty", &["alerts:overheat"]).await;
    let mut gateway = join(&node, Codec::Json, "gateway", "member").await;
    let hot = json!({ "id": 1, "temp": 90 });
    accepted(&gateway.publish(HALL, &hot).await);
    assert_eq!(news(&duty.publication().await.0), "1 entered 90");

    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let second = tidegate_tests::guests::variant("sensor-alerts", "second", folder.path());
    let pushed = node.push(&second, "sensor-alerts", &["--activate"]).await;
    let pushed = pushed.json();
    assert_eq!(pushed["version"], 2, "{pushed}");

    accepted(&gateway.publish(HALL, &hot).await);
    accepted(&gateway.publish(HALL, &json!({ "id": 1, "temp": 20 })).await);
    assert_eq!(news(&duty.publication().await.0), "1 recovered 20");
}

#[tokio::test]
async fn of_gateways_that_report_at_the_same_moment_one_raises_the_alarm() {
    let node = node(&json!({})).await;
    let mut gateways = Vec::new();
    for nth in 0..8 {
        let codec = CODECS[nth % 2];
        gateways.push(join(&node, codec, &format!("gateway-{nth}"), "member").await);
    }
    let hot = json!({ "id": "t-7", "temp": 90 });
    let published = gateways
        .iter_mut()
        .map(|gateway| gateway.publish(HALL, &hot));
    // A fresh version on a busy machine may be late for some of them (error 100); whoever it is, one has told.
    let replies = futures_util::future::join_all(published).await;
    assert!(
        replies.iter().any(|reply| reply.publish.is_some()),
        "{replies:?}"
    );
    let alerts = history(&node, "alerts:overheat").await;
    assert_eq!(
        alerts.iter().map(news).collect::<Vec<_>>(),
        ["t-7 entered 90"]
    );
}

#[tokio::test]
async fn what_is_not_a_number_goes_by_policy_for_the_back_end_too() {
    let node = node(&json!({ "missing": "alarm" })).await;
    let mut gateway = join(&node, Codec::Protobuf, "gateway", "member").await;
    let odd = json!({ "id": "t-7", "temp": "90" });
    let reply = gateway.publish(HALL, &odd).await;
    let reason = "`/temp` is not a number, and `overheat` needs it";
    assert_eq!(error(&reply), (400, reason));
    let refused = json!({ "channel": HALL, "data": odd });
    let refused = node.api().post("/api/publish", &refused).await.json();
    assert_eq!(refused["error"], json!({ "code": 400, "message": reason }));

    let silent = json!({ "channel": HALL, "data": { "id": "t-7" } });
    node.api().call("publish", &silent).await;
    let alerts = history(&node, "alerts:overheat").await;
    assert_eq!(
        alerts.iter().map(news).collect::<Vec<_>>(),
        ["t-7 entered null"]
    );
    assert_eq!(history(&node, HALL).await, [json!({ "id": "t-7" })]);
}

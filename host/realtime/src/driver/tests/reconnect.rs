//! Clients that come back while others publish.

use tokio::sync::Semaphore;

use super::*;

/// Offsets in what a client was sent: those of recovered publications and of pushes, in order.
fn offsets_of(messages: &[String]) -> Vec<u64> {
    let mut offsets = Vec::new();
    for text in messages {
        let message: serde_json::Value = serde_json::from_str(text).unwrap();
        let recovered = message["subscribe"]["publications"].as_array();
        let pushed = &message["push"]["pub"];
        let all = recovered.into_iter().flatten().chain([pushed]);
        offsets.extend(all.filter_map(|publication| publication["offset"].as_u64()));
    }
    offsets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconnecting_under_load_leaves_no_silent_gap() {
    let world = World::new(NoHooks);
    let tracker = TaskTracker::new();
    // The publisher makes as many messages as it has permits: it must not outrun the flushers for ever.
    let permits = Arc::new(Semaphore::new(0));
    let (node, granted) = (Arc::clone(&world.node), Arc::clone(&permits));
    tracker.spawn(async move {
        while let Ok(permit) = granted.acquire().await {
            permit.forget();
            let request = server_api::PublishRequest {
                channel: "kept:busy".into(),
                data: "1".into(),
                ..server_api::PublishRequest::default()
            };
            let app = AppId::default_app();
            node.publish(&app, request).wait().await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let (mut last, mut epoch) = (0, String::new());
    for _ in 0..30 {
        let mut client = world.join().await;
        permits.add_permits(35);
        client
            .say(&format!(
                r#"{{"id":2,"subscribe":{{"channel":"kept:busy","recover":true,"offset":{last},"epoch":"{epoch}"}}}}"#
            ))
            .await;
        // Enough to be waited for, in all less than the history holds.
        permits.add_permits(35);
        let messages = client
            .wire
            .until(|messages| offsets_of(messages).len() >= 20)
            .await;
        let reply = messages
            .iter()
            .find(|text| text.contains("\"subscribe\""))
            .unwrap();
        let reply: serde_json::Value = serde_json::from_str(reply).unwrap();
        let result = &reply["subscribe"];
        if result["recovered"] != true {
            // Said aloud: the position is the stream's top.
            last = result["offset"].as_u64().unwrap_or_default();
        }
        epoch = result["epoch"].as_str().unwrap().to_owned();
        for offset in offsets_of(&messages) {
            assert_eq!(offset, last + 1);
            last = offset;
        }
    }
    permits.close();
    tracker.close();
    tracker.wait().await;
}

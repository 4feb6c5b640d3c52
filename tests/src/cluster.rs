//! Nodes that share a Redis: the way to it, and the waits until they are one service.
//!
//! Another process tells nobody when its state changes, so it is asked again and again.

use std::time::Duration;

use serde_json::json;
use tidegate_test_redis::RedisServer;

use crate::{Node, NodeBuilder, api::Http, within};

/// Between two looks at what another process says.
pub const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl NodeBuilder {
    /// Shares this Redis with other nodes.
    #[must_use]
    pub fn on_redis(self, redis: &RedisServer) -> Self {
        self.set("engine.type", json!("redis"))
            .set("engine.redis.address", json!([redis.url()]))
    }
}

impl Node {
    /// Waits until the node says that it is ready.
    ///
    /// # Panics
    /// When it does not.
    pub async fn until_ready(&self) {
        let http = Http::new(self.client_addr());
        let ready = async {
            while http.get("/health/ready").await.status != 200 {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        within("the node is ready", Box::pin(ready)).await;
    }

    /// Waits until the node knows so many nodes, itself included.
    ///
    /// # Panics
    /// When it does not come to that.
    pub async fn until_nodes(&self, number: usize) {
        let api = self.api();
        let known = async {
            loop {
                let info = api.call("info", &json!({})).await;
                if info["nodes"].as_array().map(Vec::len) == Some(number) {
                    return;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        within("the nodes hear of each other", Box::pin(known)).await;
    }
}

//! A publisher: one publish in flight, the next one only after the answer; what is refused is not repeated.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::time::MissedTickBehavior;

use super::{
    Phase, Shared,
    api::{Answer, Api},
    body,
};
use crate::record::{Attempt, Outcome};

pub(super) async fn run(index: u32, shared: Arc<Shared>) -> Vec<Attempt> {
    let options = &shared.options;
    shared.reach(Phase::Publishing).await;
    let interval = Duration::from_secs(1) * options.publishers / options.rate.max(1);
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut api = Api::new();
    let mut attempts = Vec::new();
    let mut wanted_node = index as usize;
    let mut sequence: u64 = 0;
    while *shared.phase.borrow() == Phase::Publishing {
        tick.tick().await;
        sequence += 1;
        // Every publisher goes round all channels, each from a place of its own.
        let step = u64::from(index) * 7 + sequence;
        let channel = u32::try_from(step % u64::from(options.channels)).unwrap_or_default();
        let (body, message) = body::compose(index, sequence, shared.now());
        let publish = json!({ "channel": Shared::channel(channel), "data": message });
        let mut outcome = Outcome::Refused { code: 0 };
        for (node, addr) in shared.balancer.nodes_from(wanted_node) {
            wanted_node = node;
            outcome = match api.call(addr, "publish", &publish).await {
                Answer::Result(result) => Outcome::Acked {
                    epoch: result["epoch"].as_str().unwrap_or_default().to_owned(),
                    offset: result["offset"].as_u64().unwrap_or_default(),
                },
                Answer::Error { code } => Outcome::Refused { code },
                Answer::Status(status) => {
                    wanted_node += 1; // A balancer would send the next one elsewhere.
                    Outcome::Refused {
                        code: u32::from(status),
                    }
                }
                Answer::Nothing => {
                    wanted_node += 1;
                    Outcome::Unknown
                }
                // Not an attempt: the balancer goes on to the next node.
                Answer::NotSent => continue,
            };
            break;
        }
        attempts.push(Attempt {
            channel,
            body,
            done_at: shared.now(),
            outcome,
        });
    }
    attempts
}

//! Effects: what plugins asked for in a call that succeeded, done one after the other.
//!
//! Owns their order, and the word on whether all of them were done. A message that its channel refuses is counted and
//! logged, and that is the end of it. One that could not be published *now* is for whoever made the call to judge:
//! events are told again, a message that was carried out stays carried out.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_protocol::StreamPosition;

use super::{Outlet, Publishing, check_format, publish};
use crate::{
    app::App,
    cluster::Order,
    entrance::Selection,
    hooks::{Effect, Progress, SessionTarget},
    metrics::ReasonLabel,
    node::Node,
    session::Failure,
};

/// What became of a call's effects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum EffectsOutcome {
    /// Each was done, or is refused however often it is tried.
    #[default]
    Done,
    /// One at least was not done and may be when it is tried again: the engine is away, or is asked too much.
    Unavailable,
}

impl EffectsOutcome {
    fn and(self, other: Self) -> Self {
        match self {
            Self::Done => other,
            Self::Unavailable => self,
        }
    }
}

/// Runs what plugins asked for in a call that succeeded, one after the other, so that their messages to a channel
/// stay in order; `hops` is that of the message in hand. Pending if one of them is. All are tried, whatever becomes of
/// those before.
pub(crate) fn run_effects(
    node: &Arc<Node>,
    app: &Arc<App>,
    effects: Vec<Effect>,
    hops: u8,
) -> Progress<EffectsOutcome> {
    let mut effects = effects.into_iter();
    let mut all = EffectsOutcome::Done;
    while let Some(effect) = effects.next() {
        match run_effect(node, app, effect, hops) {
            Progress::Ready(outcome) => all = all.and(note_effect(node, app, &outcome)),
            Progress::Pending(first) => {
                let (node, app) = (Arc::clone(node), Arc::clone(app));
                return Progress::Pending(Box::pin(async move {
                    all = all.and(note_effect(&node, &app, &first.await));
                    for effect in effects {
                        let outcome = run_effect(&node, &app, effect, hops).wait().await;
                        all = all.and(note_effect(&node, &app, &outcome));
                    }
                    all
                }));
            }
        }
    }
    Progress::Ready(all)
}

/// Whom an effect means.
fn selection(target: &SessionTarget) -> Selection {
    match target {
        SessionTarget::User(user) => Selection::of_user(user),
        SessionTarget::Client(client) => Selection::of_client(*client),
    }
}

/// Has an effect take place here, and on the other nodes without waiting for them.
fn tell(node: &Arc<Node>, app: &Arc<App>, order: Order) -> Outlet {
    node.tell_in_background(app, order);
    Progress::Ready(Ok(None))
}

fn run_effect(node: &Arc<Node>, app: &Arc<App>, effect: Effect, hops: u8) -> Outlet {
    match effect {
        Effect::Publish {
            channel,
            data,
            version,
        } => publish_effect(node, app, (channel, data, version), hops),
        Effect::Disconnect {
            target,
            code,
            reason,
        } => {
            let order = Order::Disconnect {
                of: selection(&target),
                code,
                reason: reason.as_ref().to_owned(),
            };
            tell(node, app, order)
        }
        Effect::Unsubscribe { target, channel } => {
            let order = Order::Unsubscribe {
                of: selection(&target),
                channel: channel.as_ref().to_owned(),
            };
            tell(node, app, order)
        }
    }
}

fn publish_effect(
    node: &Arc<Node>,
    app: &Arc<App>,
    (channel, data, version): (Arc<str>, Bytes, u64),
    hops: u8,
) -> Outlet {
    let checked = {
        let settings = app.settings();
        let resolved = settings.channel.resolve(&channel);
        resolved.map_err(Failure::from).and_then(|resolved| {
            check_format(
                resolved.options.publication_data_format,
                &data.clone().into(),
            )
        })
    };
    match checked {
        Ok(()) => {
            let hops = hops.saturating_add(1);
            let publishing = Publishing {
                version,
                ..Publishing::by_plugin(app, channel, data, hops)
            };
            publish(node, app, publishing)
        }
        Err(failure) => Progress::Ready(Err(failure)),
    }
}

fn note_effect(
    node: &Node,
    app: &App,
    outcome: &Result<Option<StreamPosition>, Failure>,
) -> EffectsOutcome {
    let Err(failure) = outcome else {
        return EffectsOutcome::Done;
    };
    tracing::debug!(app = %app.id(), ?failure, "a plugin's message was not published");
    // A filter that failed counts as temporary: it may be put back within the time that events are kept for.
    let is_temporary = match failure {
        Failure::Error(error) => error.temporary,
        Failure::Close(_) => false,
    };
    let (reason, outcome) = if is_temporary {
        ("unavailable", EffectsOutcome::Unavailable)
    } else {
        app.note_refused_answer("a message of its own that the channel does not take");
        ("refused", EffectsOutcome::Done)
    };
    let failed = &node.metrics().effects_failed;
    failed.get_or_create(&ReasonLabel { reason }).inc();
    outcome
}

//! Generated answers into domain verdicts: the one place where both are named.
//!
//! A guest's values are hostile (threat model W7): every length, code, text and JSON value is checked here,
//! after wasmtime has checked UTF-8 and enums. What is out of range fails the call; nothing is bent into shape.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use tidegate_protocol::{Filter, FilterNode, Raw};
use tidegate_realtime::events::EventKind;
use tidegate_realtime::hooks::{
    Audience, AuthenticationReason, AuthenticationVerdict, AuthorizationReason,
    AuthorizationVerdict, Destination, Grant, Identity, Refusal, RpcVerdict, ServerSubscription,
};

use crate::{
    capabilities::{check_channel, check_size},
    failure::GuestFault,
    generated::exports::tidegate::plugin as wit,
    unit::CommonLimits,
};

/// Longest reason of a disconnect: it must fit a WebSocket close frame.
pub(crate) const DISCONNECT_REASON_BYTES: usize = 123;
/// Longest reason of an error.
const ERROR_REASON_BYTES: usize = 1_024;
const USER_BYTES: usize = 255;
/// Server-side subscriptions of one identity; the reference's own limit of channels per client.
const MAX_SUBSCRIPTIONS: usize = 128;
const MAX_ATTRIBUTES: usize = 4;
const CLASS_BYTES: usize = 64;

/// What filtering answered; the draft is not here, the pipeline holds it.
#[derive(Debug)]
pub(crate) enum FilterAnswer {
    Pass,
    Replace(Bytes),
    Drop,
    Refuse(Refusal),
}

/// What routing answered; the destinations are in the call's edits.
#[derive(Debug)]
pub(crate) enum RouteAnswer {
    Keep,
    Routed,
    Refuse(Refusal),
}

/// The kind of an event as plugins see it.
pub(crate) fn event_kind(kind: EventKind) -> wit::events::Kind {
    use wit::events::Kind;
    match kind {
        EventKind::Connected => Kind::Connected,
        EventKind::Disconnected => Kind::Disconnected,
        EventKind::Subscribed => Kind::Subscribed,
        EventKind::Unsubscribed => Kind::Unsubscribed,
        EventKind::Published => Kind::Published,
        EventKind::Occupied => Kind::Occupied,
        EventKind::Vacated => Kind::Vacated,
        EventKind::Online => Kind::Online,
        EventKind::Offline => Kind::Offline,
    }
}

/// A refusal as every hook's own type has it.
struct RawRefusal {
    is_disconnect: bool,
    code: u32,
    reason: String,
    /// What code 0 stands for in a disconnect, and its text.
    usual_disconnect: (u32, &'static str),
}

const INVALID_TOKEN: (u32, &str) = (3500, "invalid token");
const PERMISSION_DENIED: (u32, &str) = (4500, "permission denied");

/// Five hooks have a refusal type of the same shape each; hot types stay in their own interface.
macro_rules! refusal {
    ($hook:ident, $refusal:expr, $usual:expr) => {{
        let refusal = $refusal;
        RawRefusal {
            is_disconnect: match refusal.kind {
                wit::$hook::RefusalKind::Error => false,
                wit::$hook::RefusalKind::Disconnect => true,
            },
            code: refusal.code,
            reason: refusal.reason,
            usual_disconnect: $usual,
        }
        .check()
    }};
}

impl RawRefusal {
    fn check(self) -> Result<Refusal, GuestFault> {
        let Self {
            is_disconnect,
            code,
            reason,
            usual_disconnect,
        } = self;
        let max_bytes = if is_disconnect {
            DISCONNECT_REASON_BYTES
        } else {
            ERROR_REASON_BYTES
        };
        if reason.len() > max_bytes {
            return Err(GuestFault::bad_value(format!(
                "a refusal's reason has {} bytes, more than {max_bytes}",
                reason.len()
            )));
        }
        let text = |usual: &str| -> Arc<str> {
            if reason.is_empty() {
                usual.into()
            } else {
                reason.as_str().into()
            }
        };
        match (is_disconnect, code) {
            (false, 0) => Ok(Refusal::Error {
                code: 103,
                reason: text("permission denied"),
            }),
            (false, 400..=1999) => Ok(Refusal::Error {
                code,
                reason: text("refused"),
            }),
            (true, 0) => Ok(Refusal::Disconnect {
                code: usual_disconnect.0,
                reason: text(usual_disconnect.1),
            }),
            (true, 4000..=4999) => Ok(Refusal::Disconnect {
                code,
                reason: text("refused"),
            }),
            (false, _) => Err(GuestFault::bad_value(format!(
                "error code {code} is not 0 or 400 to 1999"
            ))),
            (true, _) => Err(GuestFault::bad_value(format!(
                "disconnect code {code} is not 0 or 4000 to 4999"
            ))),
        }
    }
}

/// Optional JSON; absent and empty are the same.
fn json(what: &str, value: Option<Vec<u8>>, max_bytes: usize) -> Result<Bytes, GuestFault> {
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(Bytes::new());
    };
    let value = Raw::from(check_size(what, value, max_bytes)?);
    if !value.is_json() {
        return Err(GuestFault::bad_value(format!("{what} is not valid JSON")));
    }
    Ok(value.into_bytes())
}

/// Data in the place of other data must be JSON if that was: JSON clients will read it.
fn same_kind(what: &str, data: Bytes, original: &Bytes) -> Result<Bytes, GuestFault> {
    let data = Raw::from(data);
    if !data.is_json() && Raw::from(original.clone()).is_json() {
        return Err(GuestFault::bad_value(format!(
            "{what} is not valid JSON, but what it answers is"
        )));
    }
    Ok(data.into_bytes())
}

pub(crate) fn authentication_reason(reason: AuthenticationReason) -> wit::authentication::Reason {
    match reason {
        AuthenticationReason::Connect => wit::authentication::Reason::Connect,
        AuthenticationReason::Refresh => wit::authentication::Reason::Refresh,
    }
}

pub(crate) fn authorization_reason(reason: AuthorizationReason) -> wit::authorization::Reason {
    match reason {
        AuthorizationReason::Subscribe => wit::authorization::Reason::Subscribe,
        AuthorizationReason::Refresh => wit::authorization::Reason::Refresh,
    }
}

pub(crate) fn authentication(
    verdict: wit::authentication::Verdict,
    limits: CommonLimits,
) -> Result<AuthenticationVerdict, GuestFault> {
    use wit::authentication::Verdict;
    Ok(match verdict {
        Verdict::NotMine => AuthenticationVerdict::NotMine,
        Verdict::Accept(identity) => {
            AuthenticationVerdict::Accept(Box::new(self::identity(identity, limits)?))
        }
        Verdict::Refuse(refusal) => {
            AuthenticationVerdict::Refuse(refusal!(authentication, refusal, INVALID_TOKEN)?)
        }
    })
}

fn identity(
    identity: wit::authentication::Identity,
    limits: CommonLimits,
) -> Result<Identity, GuestFault> {
    let wit::authentication::Identity {
        user,
        expires_at,
        info,
        data,
        meta,
        subscriptions,
    } = identity;
    let max_bytes = limits.max_message_bytes;
    if user.len() > USER_BYTES || user.chars().any(char::is_control) {
        return Err(GuestFault::bad_value(format!(
            "a user id has at most {USER_BYTES} bytes and no control characters"
        )));
    }
    if subscriptions.len() > MAX_SUBSCRIPTIONS {
        return Err(GuestFault::bad_value(format!(
            "an identity has at most {MAX_SUBSCRIPTIONS} subscriptions"
        )));
    }
    Ok(Identity {
        user: user.into(),
        expires_at,
        info: json("identity.info", info, max_bytes)?,
        data: json("identity.data", data, max_bytes)?,
        meta: json("identity.meta", meta, max_bytes)?,
        subscriptions: subscriptions
            .into_iter()
            .map(|one| subscription(one, limits))
            .collect::<Result<_, _>>()?,
    })
}

fn subscription(
    subscription: wit::authentication::Subscription,
    limits: CommonLimits,
) -> Result<ServerSubscription, GuestFault> {
    let wit::authentication::Subscription {
        channel,
        info,
        data,
        expires_at,
        presence,
        join_leave,
        force_push_join_leave,
        force_positioning,
        force_recovery,
    } = subscription;
    check_channel(&channel, limits.max_channel_bytes).map_err(GuestFault::bad_value)?;
    Ok(ServerSubscription {
        channel: channel.into(),
        grant: Grant {
            presence,
            join_leave,
            force_push_join_leave,
            force_positioning,
            force_recovery,
            info: json("subscription.info", info, limits.max_message_bytes)?,
            data: json("subscription.data", data, limits.max_message_bytes)?,
            expires_at,
            audience: Audience::default(),
        },
    })
}

pub(crate) fn authorization(
    verdict: wit::authorization::Verdict,
    limits: CommonLimits,
) -> Result<AuthorizationVerdict, GuestFault> {
    use wit::authorization::Verdict;
    Ok(match verdict {
        Verdict::NotMine => AuthorizationVerdict::NotMine,
        Verdict::Allow(grant) => AuthorizationVerdict::Allow(Box::new(self::grant(grant, limits)?)),
        Verdict::Refuse(refusal) => {
            AuthorizationVerdict::Refuse(refusal!(authorization, refusal, PERMISSION_DENIED)?)
        }
    })
}

fn grant(grant: wit::authorization::Grant, limits: CommonLimits) -> Result<Grant, GuestFault> {
    let wit::authorization::Grant {
        presence,
        join_leave,
        force_push_join_leave,
        force_positioning,
        force_recovery,
        info,
        data,
        expires_at,
        audience_predicate,
        audience_class,
        audience_attributes,
    } = grant;
    if audience_attributes.len() > MAX_ATTRIBUTES {
        return Err(GuestFault::bad_value(format!(
            "a grant has at most {MAX_ATTRIBUTES} audience attributes"
        )));
    }
    if audience_class
        .as_ref()
        .is_some_and(|class| class.is_empty() || class.len() > CLASS_BYTES)
    {
        return Err(GuestFault::bad_value(format!(
            "an audience class has 1 to {CLASS_BYTES} bytes"
        )));
    }
    Ok(Grant {
        presence,
        join_leave,
        force_push_join_leave,
        force_positioning,
        force_recovery,
        info: json("grant.info", info, limits.max_message_bytes)?,
        data: json("grant.data", data, limits.max_message_bytes)?,
        expires_at,
        audience: Audience {
            predicate: audience_predicate.as_deref().map(predicate).transpose()?,
            class: audience_class.map(Arc::from),
            attributes: audience_attributes,
        },
    })
}

/// A filter node as JSON text: the fields of the client protocol and no others.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PredicateNode {
    op: String,
    key: String,
    cmp: String,
    val: String,
    vals: Vec<String>,
    nodes: Vec<PredicateNode>,
}

impl From<PredicateNode> for FilterNode {
    fn from(node: PredicateNode) -> Self {
        let PredicateNode {
            op,
            key,
            cmp,
            val,
            vals,
            nodes,
        } = node;
        Self {
            op,
            key,
            cmp,
            val,
            vals,
            nodes: nodes.into_iter().map(Self::from).collect(),
        }
    }
}

fn predicate(text: &str) -> Result<Box<FilterNode>, GuestFault> {
    let bad = |problem: String| {
        GuestFault::bad_value(format!(
            "the audience predicate is no filter node: {problem}"
        ))
    };
    let node: PredicateNode = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
    let node = FilterNode::from(node);
    Filter::parse(&node).map_err(|error| bad(error.to_string()))?;
    Ok(Box::new(node))
}

#[inline]
pub(crate) fn filtering(
    verdict: wit::filtering::Verdict,
    original: &Bytes,
    limits: CommonLimits,
) -> Result<FilterAnswer, GuestFault> {
    use wit::filtering::Verdict;
    Ok(match verdict {
        Verdict::Pass => FilterAnswer::Pass,
        Verdict::Replace(data) => {
            let what = "the replacement";
            let data = check_size(what, data, limits.max_message_bytes)?;
            FilterAnswer::Replace(same_kind(what, data, original)?)
        }
        Verdict::Drop => FilterAnswer::Drop,
        Verdict::Refuse(refusal) => {
            FilterAnswer::Refuse(refusal!(filtering, refusal, PERMISSION_DENIED)?)
        }
    })
}

pub(crate) fn routing(
    verdict: wit::routing::Verdict,
    destinations: &[Destination],
    original: &Bytes,
) -> Result<RouteAnswer, GuestFault> {
    use wit::routing::Verdict;
    Ok(match verdict {
        Verdict::Keep => RouteAnswer::Keep,
        Verdict::Routed => {
            for data in destinations.iter().filter_map(|one| one.data.as_ref()) {
                same_kind("a destination's data", data.clone(), original)?;
            }
            RouteAnswer::Routed
        }
        Verdict::Refuse(refusal) => {
            RouteAnswer::Refuse(refusal!(routing, refusal, PERMISSION_DENIED)?)
        }
    })
}

pub(crate) fn rpc(
    verdict: wit::rpc::Verdict,
    question: &Bytes,
    limits: CommonLimits,
) -> Result<RpcVerdict, GuestFault> {
    use wit::rpc::Verdict;
    Ok(match verdict {
        Verdict::NotMine => RpcVerdict::NotMine,
        Verdict::Reply(data) if data.is_empty() => RpcVerdict::Reply(Bytes::new()),
        Verdict::Reply(data) => {
            let what = "the reply";
            let data = check_size(what, data, limits.max_message_bytes)?;
            RpcVerdict::Reply(same_kind(what, data, question)?)
        }
        Verdict::Refuse(refusal) => RpcVerdict::Refuse(refusal!(rpc, refusal, PERMISSION_DENIED)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(is_disconnect: bool, code: u32, expected: Option<(u32, &str)>) {
        let refusal = RawRefusal {
            is_disconnect,
            code,
            reason: String::new(),
            usual_disconnect: PERMISSION_DENIED,
        };
        let got = refusal.check().ok().map(|refusal| match refusal {
            Refusal::Error { code, reason } | Refusal::Disconnect { code, reason } => {
                (code, reason.to_string())
            }
        });
        assert_eq!(got, expected.map(|(code, text)| (code, text.to_owned())));
    }

    #[test]
    fn w7_refusal_codes_stay_in_their_ranges() {
        check(false, 0, Some((103, "permission denied")));
        check(false, 400, Some((400, "refused")));
        check(false, 1999, Some((1999, "refused")));
        check(false, 399, None);
        check(false, 2000, None);
        check(false, 100, None);
        check(true, 0, Some((4500, "permission denied")));
        check(true, 4000, Some((4000, "refused")));
        check(true, 4999, Some((4999, "refused")));
        check(true, 3999, None);
        check(true, 5000, None);
        check(true, 3000, None);
    }

    #[test]
    fn w7_a_disconnect_reason_fits_a_close_frame() {
        let refusal = |len: usize| RawRefusal {
            is_disconnect: true,
            code: 0,
            reason: "x".repeat(len),
            usual_disconnect: PERMISSION_DENIED,
        };
        assert!(refusal(123).check().is_ok());
        assert!(refusal(124).check().is_err());
    }

    #[test]
    fn w7_json_parts_are_checked() {
        assert!(json("x", Some(b"{\"a\":1}".to_vec()), 100).is_ok());
        assert!(json("x", Some(b"{".to_vec()), 100).is_err());
        assert!(json("x", Some(b"\"\xff\"".to_vec()), 100).is_err());
        assert!(json("x", Some(b"[1]".to_vec()), 2).is_err());
        assert!(json("x", None, 2).unwrap().is_empty());
    }

    #[test]
    fn binary_messages_may_be_replaced_by_binary_ones() {
        let binary = Bytes::from_static(b"\x00\x01");
        let json = Bytes::from_static(b"{}");
        assert!(same_kind("x", binary.clone(), &binary).is_ok());
        assert!(same_kind("x", json.clone(), &binary).is_ok());
        assert!(same_kind("x", binary, &json).is_err());
    }
}

//! Private, broadcast and system messages over one channel.
//!
//! Data is a JSON object whose `type` says who hears it:
//!
//! * `broadcast`: everybody in the channel;
//! * `private`, with `to`: that user on all their devices, and the sender on all of theirs, nobody else;
//! * `system`: everybody in the channel, and only an operator (or the app's back end) may send it.
//!
//! A private message has no channel when it arrives, so it carries `channel` and `from`, which no sender can forge.
//!
//! Invariant: what cannot be read is refused; nothing private ever falls back to the channel.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use tidegate_sdk::{
    BAD_DATA_CODE, Configured, Message, Refusal, Routing,
    config::{self, BadSetting},
    context::{self, Origin},
    plugin,
    routing::{Destinations, Target, Verdict},
    settings::Offered,
};

/// The type is none of the three.
pub const UNKNOWN_TYPE_CODE: u32 = 422;

/// Longer names are no user's.
const MAX_USER_BYTES: usize = 255;

/// The plugin.
#[derive(Debug)]
pub struct DirectRouter;

/// What the operator may set.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// The role, in the session's meta, that may send system messages. `ticket-auth` puts it there.
    operator_role: String,
    /// What a message without `type` is; refused if absent.
    default_type: Option<Kind>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            operator_role: "operator".to_owned(),
            default_type: None,
        }
    }
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Broadcast,
    Private,
    System,
}

impl Kind {
    fn parse(name: &str) -> Result<Self, Refusal> {
        match name {
            "broadcast" => Ok(Self::Broadcast),
            "private" => Ok(Self::Private),
            "system" => Ok(Self::System),
            _ => Err(Refusal::error(
                UNKNOWN_TYPE_CODE,
                "`type` is none of broadcast, private, system",
            )),
        }
    }
}

/// What of a message decides its way.
#[derive(Deserialize)]
struct Head<'m> {
    #[serde(borrow, rename = "type")]
    kind: Option<std::borrow::Cow<'m, str>>,
    to: Option<String>,
}

#[derive(Deserialize)]
struct Meta {
    role: Option<String>,
}

impl Routing for DirectRouter {
    fn route(message: Message) -> Result<Verdict, Refusal> {
        let settings = config::settings::<Settings>();
        let head: Head<'_> = message.json()?;
        let kind = match (&head.kind, settings.default_type) {
            (Some(name), _) => Kind::parse(name)?,
            (None, Some(kind)) => kind,
            (None, None) => {
                return Err(bad_shape("`type` is missing: broadcast, private or system"));
            }
        };
        match (kind, head.to) {
            (Kind::Private, Some(to)) => private(&message, &to),
            (Kind::Private, None) => Err(bad_shape("a private message needs `to`, a user")),
            (Kind::Broadcast | Kind::System, Some(_)) => {
                Err(bad_shape("`to` is for private messages only"))
            }
            (Kind::Broadcast, None) => Ok(Verdict::Keep),
            (Kind::System, None) => system(&settings),
        }
    }
}

fn private(message: &Message, to: &str) -> Result<Verdict, Refusal> {
    if to.is_empty() || to.len() > MAX_USER_BYTES {
        return Err(bad_shape("`to` is a user of 1 to 255 bytes"));
    }
    let from = message.user();
    if from.is_empty() && context::origin() == Origin::Client {
        return Err(Refusal::denied("only who is signed in writes privately"));
    }

    let (from_json, channel_json) = (raw(from)?, raw(message.channel())?);
    let mut data: BTreeMap<String, &RawValue> = message.json()?;
    data.insert("from".to_owned(), &from_json);
    data.insert("channel".to_owned(), &channel_json);

    let destinations = Destinations::new().with_json(Target::User(to.to_owned()), &data);
    Ok(if from.is_empty() || from == to {
        destinations.into()
    } else {
        // The sender's other devices show the conversation too.
        let sender = Target::User(from.to_owned());
        destinations.with_json(sender, &data).into()
    })
}

fn system(settings: &Settings) -> Result<Verdict, Refusal> {
    match context::origin() {
        // The back end and the operator's own plugins speak for the system.
        Origin::ServerApi | Origin::Plugin => return Ok(Verdict::Keep),
        Origin::Client => {}
    }
    // Meta of another form gives no role.
    let meta = context::meta::<Meta>().ok().flatten();
    let role = meta.and_then(|meta| meta.role);
    if role.as_ref() == Some(&settings.operator_role) {
        Ok(Verdict::Keep)
    } else {
        Err(Refusal::denied("only operators send system messages"))
    }
}

fn bad_shape(reason: &str) -> Refusal {
    Refusal::error(BAD_DATA_CODE, reason)
}

fn raw(text: &str) -> Result<Box<RawValue>, Refusal> {
    serde_json::value::to_raw_value(text).map_err(|error| bad_shape(&error.to_string()))
}

impl Configured for DirectRouter {
    fn check(offered: Offered) -> Result<(), BadSetting> {
        offered.read::<Settings>().map(drop)
    }
}

plugin!(DirectRouter: routing, settings);

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidegate_sdk::testing::Host;

    use super::*;

    fn ann() -> Host {
        Host::new()
            .user("ann")
            .meta(json!({ "name": "Ann", "role": "member" }))
    }

    #[track_caller]
    fn check_refused(mut host: Host, data: &str, code: Option<u32>, reason: &str) {
        let refusal = host.route::<DirectRouter>("chat:lobby", data).unwrap_err();
        assert_eq!(refusal.code(), code, "{refusal}");
        assert!(refusal.reason().contains(reason), "{refusal}");
    }

    #[test]
    fn broadcasts_stay_in_their_channel() {
        let data = r#"{"type":"broadcast","text":"hi"}"#;
        assert_eq!(
            ann().route::<DirectRouter>("chat:lobby", data),
            Ok(Verdict::Keep)
        );
        let data = r#"{"type":"broadcast","to":null}"#;
        assert_eq!(
            ann().route::<DirectRouter>("chat:lobby", data),
            Ok(Verdict::Keep)
        );
    }

    #[test]
    fn private_messages_reach_both_users_and_nobody_else() {
        let data = r#"{"type":"private","to":"bob","text":"psst","n":1.50}"#;
        let verdict = ann().route::<DirectRouter>("chat:lobby", data).unwrap();
        let expected = r#"{"channel":"chat:lobby","from":"ann","n":1.50,"text":"psst","to":"bob","type":"private"}"#;
        let destinations = Destinations::new()
            .with_data(Target::User("bob".to_owned()), expected)
            .with_data(Target::User("ann".to_owned()), expected);
        assert_eq!(verdict, Verdict::Routed(destinations));
    }

    #[test]
    fn the_sender_cannot_be_forged() {
        let data = r#"{"type":"private","to":"ann","from":"bob","channel":"x"}"#;
        let verdict = ann().route::<DirectRouter>("chat:lobby", data).unwrap();
        let expected = r#"{"channel":"chat:lobby","from":"ann","to":"ann","type":"private"}"#;
        // A note to oneself arrives once.
        let destinations = Destinations::new().with_data(Target::User("ann".to_owned()), expected);
        assert_eq!(verdict, Verdict::Routed(destinations));
    }

    #[test]
    fn system_messages_come_from_operators_and_the_back_end() {
        let data = r#"{"type":"system","text":"closing at ten"}"#;
        let operator = json!({ "role": "operator" });
        for mut host in [
            ann().meta(operator),
            ann().origin(Origin::ServerApi),
            ann().origin(Origin::Plugin),
            ann().config(json!({ "operator_role": "member" })),
        ] {
            assert_eq!(
                host.route::<DirectRouter>("chat:lobby", data),
                Ok(Verdict::Keep)
            );
        }
        let reason = "only operators send system messages";
        check_refused(ann(), data, None, reason);
        check_refused(Host::new().user("ann"), data, None, reason);
        check_refused(ann().meta("operator"), data, None, reason);
    }

    #[test]
    fn unknown_types_and_bad_shapes_are_refused() {
        for (data, code, reason) in [
            (
                r#"{"type":"whisper"}"#,
                422,
                "none of broadcast, private, system",
            ),
            (r#"{"text":"hi"}"#, 400, "`type` is missing"),
            (r#"{"type":7}"#, 400, "invalid type"),
            ("hi", 400, "data cannot be used as JSON"),
            ("", 400, "data cannot be used as JSON"),
            (r#"["type"]"#, 400, "data cannot be used as JSON"),
            (r#"{"type":"private"}"#, 400, "needs `to`"),
            (r#"{"type":"private","to":""}"#, 400, "1 to 255 bytes"),
            (r#"{"type":"private","to":["bob"]}"#, 400, "invalid type"),
            (
                r#"{"type":"broadcast","to":"bob"}"#,
                400,
                "for private messages only",
            ),
            (
                r#"{"type":"private","to":"bob","to":"eve"}"#,
                400,
                "duplicate field",
            ),
        ] {
            check_refused(ann(), data, Some(code), reason);
        }
    }

    #[test]
    fn a_default_type_is_a_setting() {
        let mut host = ann().config(json!({ "default_type": "broadcast" }));
        let verdict = host.route::<DirectRouter>("chat:lobby", r#"{"text":"hi"}"#);
        assert_eq!(verdict, Ok(Verdict::Keep));
    }

    #[test]
    fn settings_that_cannot_be_used_say_what_is_wrong() {
        let check = |settings: &serde_json::Value| {
            Host::new()
                .config(settings)
                .check_settings::<DirectRouter>("routing")
        };
        for (settings, says) in [
            (
                json!({ "operator_rol": "admin" }),
                "unknown field `operator_rol`",
            ),
            (
                json!({ "operator_role": null }),
                "`operator_role`: invalid type: null",
            ),
            (
                json!({ "operator_role": ["admin"] }),
                "`operator_role`: invalid type",
            ),
            (
                json!({ "default_type": "whisper" }),
                "`default_type`: unknown variant `whisper`",
            ),
        ] {
            let error = check(&settings).expect_err("they cannot be used");
            assert!(error.to_string().contains(says), "{error}");
        }
        for settings in [
            json!({}),
            json!({ "operator_role": "admin", "default_type": null }),
            json!({ "default_type": "broadcast" }),
        ] {
            assert_eq!(check(&settings), Ok(()), "{settings}");
        }
    }

    #[test]
    fn nobody_writes_privately_without_a_name() {
        let data = r#"{"type":"private","to":"bob"}"#;
        check_refused(Host::new(), data, None, "signed in");
        // The back end may.
        let mut host = Host::new().origin(Origin::ServerApi);
        assert!(host.route::<DirectRouter>("chat:lobby", data).is_ok());
    }
}

//! Channels and namespaces: what their options mean together.

use std::{collections::BTreeMap, time::Duration};

use super::{at_least, pattern};
use crate::config::{
    ChannelsConfig, HistoryConfig, NamespaceConfig, Permission, PersonalChannel,
    PublicationDataFormat,
    settings::{Scope, Settings},
    tree::Problem,
};

pub(super) fn channels(settings: &Settings, problems: &mut Vec<Problem>) -> ChannelsConfig {
    let root = &settings.root;
    let mut boundary = |name: &str| {
        let text = root.text(name);
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(char), None) if char.is_ascii_punctuation() => char,
            _ => {
                problems.push(root.problem(
                    name,
                    format!("`{text}` cannot be used; write one character of ASCII punctuation"),
                ));
                '\0'
            }
        }
    };
    let private_prefix = boundary("channel.private_prefix");
    let namespace_boundary = boundary("channel.namespace_boundary");
    let user_boundary = boundary("channel.user_boundary");
    let user_separator = boundary("channel.user_separator");
    let marks = [
        private_prefix,
        namespace_boundary,
        user_boundary,
        user_separator,
    ];
    let names = [
        "channel.private_prefix",
        "channel.namespace_boundary",
        "channel.user_boundary",
        "channel.user_separator",
    ];
    for (index, mark) in marks.iter().enumerate().filter(|(_, mark)| **mark != '\0') {
        if let Some(earlier) = marks.iter().take(index).position(|other| other == mark) {
            problems.push(root.problem(
                names[index],
                format!(
                    "{} is `{mark}` too; the four characters must differ",
                    names[earlier]
                ),
            ));
        }
    }
    let meta_ttl = at_least(
        root,
        "channel.history_meta_ttl",
        Duration::from_secs(1),
        problems,
    );
    let default_format = data_format(root, "channel.publication_data_format", problems);
    let prefix = "channel.without_namespace.";
    let mut namespaces: BTreeMap<String, NamespaceConfig> = BTreeMap::new();
    for scope in &settings.namespaces {
        let name = scope.text("name");
        let is_name = name.len() >= 2
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !is_name {
            problems.push(scope.problem(
                "name",
                "a namespace has a name of at least two letters, digits, `-`, `_` or `.`",
            ));
        } else if name.contains(namespace_boundary) {
            problems.push(scope.problem(
                "name",
                format!("the name contains channel.namespace_boundary, `{namespace_boundary}`"),
            ));
        }
        let namespace = namespace(scope, "", meta_ttl, default_format, problems);
        if namespaces.insert(name.clone(), namespace).is_some() && is_name {
            problems.push(scope.problem(
                "name",
                format!("there is another namespace `{name}`; names are unique"),
            ));
        }
    }
    ChannelsConfig {
        max_length_bytes: usize::try_from(root.count("channel.max_length")).unwrap_or(255),
        private_prefix,
        namespace_boundary,
        user_boundary,
        user_separator,
        without_namespace: namespace(root, prefix, meta_ttl, default_format, problems),
        namespaces,
    }
}

fn namespace(
    scope: &Scope,
    prefix: &str,
    global_meta_ttl: Duration,
    default_format: PublicationDataFormat,
    problems: &mut Vec<Problem>,
) -> NamespaceConfig {
    let key = |name: &str| format!("{prefix}{name}");
    let flag = |name: &str| scope.flag(&key(name));
    let size = scope.count(&key("history_size"));
    let ttl = scope.duration(&key("history_ttl"));
    let own_meta_ttl = Some(scope.duration(&key("history_meta_ttl"))).filter(|ttl| !ttl.is_zero());
    let meta_ttl = own_meta_ttl.unwrap_or(global_meta_ttl);
    // A value that cannot be read is told already, and says nothing about the other one.
    let is_unclear =
        scope.is_unreadable(&key("history_size")) || scope.is_unreadable(&key("history_ttl"));
    let history = match (size, ttl) {
        _ if is_unclear => None,
        (0, Duration::ZERO) => None,
        (0, _) => {
            problems.push(scope.problem(
                &key("history_size"),
                "history_ttl is set, so set history_size as well (or remove both)",
            ));
            None
        }
        (_, Duration::ZERO) => {
            problems.push(scope.problem(&key("history_ttl"), "history_size is set, so set history_ttl as well, for example \"5m\" (or remove both)"));
            None
        }
        (size, ttl) => {
            if meta_ttl <= ttl {
                let place = if own_meta_ttl.is_some() {
                    key("history_meta_ttl")
                } else {
                    key("history_ttl")
                };
                problems.push(scope.problem(&place, "history_meta_ttl must be longer than history_ttl, or streams would be forgotten before their publications"));
            }
            Some(HistoryConfig {
                size: usize::try_from(size).unwrap_or(usize::MAX),
                ttl,
                meta_ttl,
            })
        }
    };
    for option in [
        "force_recovery",
        "allow_recovery",
        "force_positioning",
        "allow_positioning",
    ] {
        if flag(option) && size == 0 && ttl.is_zero() && !is_unclear {
            problems.push(scope.problem(
                &key(option),
                "needs history; set history_size and history_ttl",
            ));
        }
    }
    match scope.text(&key("force_recovery_mode")).as_str() {
        "" | "stream" => {}
        "cache" => problems.push(scope.problem(
            &key("force_recovery_mode"),
            "cache recovery is not part of this release; use \"stream\"",
        )),
        other => problems.push(scope.problem(
            &key("force_recovery_mode"),
            format!("`{other}` is not a mode; use \"stream\""),
        )),
    }
    let permission = |what: &str| Permission {
        for_client: flag(&format!("allow_{what}_for_client")),
        for_subscriber: what != "subscribe" && flag(&format!("allow_{what}_for_subscriber")),
        for_anonymous: flag(&format!("allow_{what}_for_anonymous")),
    };
    NamespaceConfig {
        history,
        meta_ttl,
        force_positioning: flag("force_positioning"),
        allow_positioning: flag("allow_positioning"),
        force_recovery: flag("force_recovery"),
        allow_recovery: flag("allow_recovery"),
        subscribe: permission("subscribe"),
        publish: permission("publish"),
        read_history: permission("history"),
        read_presence: permission("presence"),
        presence: flag("presence"),
        join_leave: flag("join_leave"),
        force_push_join_leave: flag("force_push_join_leave"),
        allow_user_limited_channels: flag("allow_user_limited_channels"),
        channel_regex: pattern(scope, &key("channel_regex"), problems),
        publication_data_format: if scope.is_set(&key("publication_data_format")) {
            data_format(scope, &key("publication_data_format"), problems)
        } else {
            default_format
        },
    }
}

fn data_format(scope: &Scope, name: &str, problems: &mut Vec<Problem>) -> PublicationDataFormat {
    let text = scope.text(name);
    PublicationDataFormat::parse(&text).unwrap_or_else(|| {
        problems.push(scope.problem(
            name,
            format!("`{text}` is not a format; use \"json\", \"json_object\", \"binary\" or \"\""),
        ));
        PublicationDataFormat::NotEmpty
    })
}

/// The channels of users, if they have any.
pub(super) fn personal_channel(
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> Option<PersonalChannel> {
    let root = &settings.root;
    let prefix = "client.subscribe_to_user_personal_channel";
    let namespace = root.text(&format!("{prefix}.personal_channel_namespace"));
    let is_single_connection = root.flag(&format!("{prefix}.single_connection"));
    if !root.flag(&format!("{prefix}.enabled")) {
        return None;
    }
    let mut names = settings.namespaces.iter().map(|scope| scope.text("name"));
    if !namespace.is_empty() && !names.any(|name| name == namespace) {
        problems.push(root.problem(
            &format!("{prefix}.personal_channel_namespace"),
            format!("there is no namespace `{namespace}`; define it in channel.namespaces, or leave this key out"),
        ));
    }
    Some(PersonalChannel {
        namespace: namespace.into(),
        is_single_connection,
    })
}

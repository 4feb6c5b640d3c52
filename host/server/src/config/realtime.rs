//! The validated configuration as the realtime core and the sandbox want it.
//!
//! Each struct is taken apart in full, so that a new field breaks the build where it must be handed over.

use std::{sync::Arc, time::Duration};

use tidegate_realtime::{
    config::{ClientConfig as RealtimeClient, RealtimeConfig, TextRule},
    hub::HubConfig,
    namespace::{
        ChannelConfig, HistoryConfig as RealtimeHistory, NamespaceOptions,
        Permission as RealtimePermission, PublicationDataFormat as DataFormat,
    },
    token::{HmacSecret, TokenAlgorithm as RealtimeAlgorithm, TokenConfig as RealtimeToken},
};
use tidegate_sandbox::{Class, Hook, PluginLimits};

use super::{
    ChannelsConfig, ClientConfig, Config, NamespaceConfig, Permission, PluginDeadlines,
    PluginsConfig, PublicationDataFormat, Secret, TokenAlgorithm, TokenClaimRule, TokenConfig,
};

impl Config {
    /// Settings of the app `default`.
    pub fn into_realtime(self) -> RealtimeConfig {
        RealtimeConfig {
            client: self.client.into(),
            token: self.token.into(),
            channel: self.channels.into(),
        }
    }

    /// The hub of the node, with as many shards as there are worker threads.
    pub fn hub(&self) -> HubConfig {
        HubConfig {
            outbox_bytes: self.client.queue_max_bytes,
            ..HubConfig::default()
        }
    }
}

impl PluginsConfig {
    /// Limits of a call of this hook by a plugin of this class.
    pub fn limits(&self, hook: Hook, class: Class) -> PluginLimits {
        PluginLimits {
            deadline: Some(self.deadlines.of(hook, class)),
            memory_bytes: Some(self.max_memory_bytes),
        }
    }
}

impl PluginDeadlines {
    /// The deadline of one hook.
    pub fn of(&self, hook: Hook, class: Class) -> Duration {
        if class == Class::Waiting && hook.suits(class) {
            return self.waiting;
        }
        match hook {
            Hook::Authentication => self.authentication,
            Hook::Authorization => self.authorization,
            Hook::Filtering => self.filtering,
            Hook::Routing => self.routing,
            Hook::Rpc => self.rpc,
            Hook::Events => self.events,
            Hook::Schedule => self.schedule,
        }
    }
}

impl From<ClientConfig> for RealtimeClient {
    fn from(config: ClientConfig) -> Self {
        let ClientConfig {
            // The listener's business.
            allowed_origins: _,
            connection_rate_limit: _,
            ip_connection_limit: _,
            ip_connection_rate_limit: _,
            // The transports'.
            user_id_header: _,
            // The hub's.
            queue_max_bytes: _,
            // The roster's.
            presence_update_interval: _,
            allow_anonymous_connect_without_token,
            ping_interval,
            pong_timeout,
            expired_close_delay,
            expired_sub_close_delay,
            stale_close_delay,
            channel_limit,
            position_check_delay,
            connection_limit,
            user_connection_limit,
            command_rate,
            connect_include_server_time,
            history_max_publications,
            recovery_max_publications,
            personal_channel,
            is_insecure,
        } = config;
        Self {
            ping_interval,
            pong_timeout,
            expired_close_delay,
            expired_sub_close_delay,
            stale_close_delay,
            channel_limit,
            position_check_delay,
            connection_limit: Some(connection_limit),
            user_connection_limit,
            command_rate,
            connect_include_server_time,
            history_max_publications,
            recovery_max_publications,
            allow_anonymous_connect_without_token,
            personal_channel,
            is_insecure,
        }
    }
}

impl From<TokenConfig> for RealtimeToken {
    fn from(config: TokenConfig) -> Self {
        let TokenConfig {
            hmac_secret,
            hmac_previous_secret,
            hmac_previous_valid_until,
            algorithms,
            audience,
            issuer,
            user_id_claim,
            require_exp,
            allow_weak_hmac,
            skip_signature_verify,
            disallow_anonymous,
        } = config;
        let secret = |secret: Secret| HmacSecret::new(secret.expose().as_bytes());
        Self {
            hmac_secret: hmac_secret.map(secret),
            hmac_previous_secret: hmac_previous_secret.map(secret),
            hmac_previous_valid_until,
            algorithms: algorithms.into_iter().map(Into::into).collect(),
            audience: audience.map(Into::into),
            issuer: issuer.map(Into::into),
            user_id_claim: user_id_claim.map(Into::into),
            require_exp,
            insecure_allow_weak_hmac: allow_weak_hmac,
            insecure_skip_signature_verify: skip_signature_verify,
            disallow_anonymous,
        }
    }
}

impl From<TokenAlgorithm> for RealtimeAlgorithm {
    fn from(algorithm: TokenAlgorithm) -> Self {
        match algorithm {
            TokenAlgorithm::Hs256 => Self::Hs256,
            TokenAlgorithm::Hs384 => Self::Hs384,
            TokenAlgorithm::Hs512 => Self::Hs512,
        }
    }
}

impl From<TokenClaimRule> for TextRule {
    fn from(rule: TokenClaimRule) -> Self {
        match rule {
            TokenClaimRule::Exactly(text) => Self::Exactly(text.into()),
            TokenClaimRule::Matches(pattern) => Self::Matches(pattern),
        }
    }
}

impl From<ChannelsConfig> for ChannelConfig {
    fn from(config: ChannelsConfig) -> Self {
        let ChannelsConfig {
            max_length_bytes,
            private_prefix,
            namespace_boundary,
            user_boundary,
            user_separator,
            without_namespace,
            namespaces,
        } = config;
        let namespaces = namespaces.into_iter();
        Self {
            max_name_bytes: max_length_bytes,
            private_prefix,
            namespace_boundary,
            user_boundary,
            user_separator,
            without_namespace: Arc::new(without_namespace.into()),
            namespaces: namespaces
                .map(|(name, options)| (name.into(), Arc::new(options.into())))
                .collect(),
        }
    }
}

impl From<NamespaceConfig> for NamespaceOptions {
    fn from(config: NamespaceConfig) -> Self {
        let NamespaceConfig {
            history,
            meta_ttl,
            force_positioning,
            allow_positioning,
            force_recovery,
            allow_recovery,
            subscribe,
            publish,
            read_history,
            read_presence,
            presence,
            join_leave,
            force_push_join_leave,
            allow_user_limited_channels,
            channel_regex,
            publication_data_format,
        } = config;
        Self {
            history: history.map(|history| RealtimeHistory {
                size: history.size,
                ttl: history.ttl,
            }),
            meta_ttl,
            force_positioning,
            allow_positioning,
            force_recovery,
            allow_recovery,
            subscribe: subscribe.into(),
            publish: publish.into(),
            read_history: read_history.into(),
            read_presence: read_presence.into(),
            presence,
            join_leave,
            force_push_join_leave,
            allow_user_limited_channels,
            channel_regex,
            publication_data_format: publication_data_format.into(),
        }
    }
}

impl From<Permission> for RealtimePermission {
    fn from(permission: Permission) -> Self {
        let Permission {
            for_client,
            for_subscriber,
            for_anonymous,
        } = permission;
        Self {
            for_client,
            for_subscriber,
            for_anonymous,
        }
    }
}

impl From<PublicationDataFormat> for DataFormat {
    fn from(format: PublicationDataFormat) -> Self {
        match format {
            PublicationDataFormat::NotEmpty => Self::NotEmpty,
            PublicationDataFormat::Json => Self::Json,
            PublicationDataFormat::JsonObject => Self::JsonObject,
            PublicationDataFormat::Binary => Self::Binary,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{Sources, load};

    fn config(pairs: &[(&str, &str)]) -> Config {
        let environment: BTreeMap<String, String> = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let sources = Sources {
            file: None,
            environment: &environment,
            data_dir: None,
        };
        load(sources).unwrap().config
    }

    #[test]
    fn what_is_configured_reaches_the_core() {
        let config = config(&[
            ("TIDEGATE_CLIENT_COMMAND_RATE", "50"),
            ("TIDEGATE_CLIENT_TOKEN_ALGORITHMS", "HS512"),
            ("TIDEGATE_CLIENT_TOKEN_AUDIENCE", "us"),
            ("TIDEGATE_CLIENT_QUEUE_MAX_SIZE", "64KiB"),
            ("TIDEGATE_PLUGINS_DEADLINE_RPC", "50ms"),
            ("TIDEGATE_PLUGINS_DEADLINE_WAITING", "2s"),
            (
                "TIDEGATE_CHANNEL_NAMESPACES",
                r#"[{"name":"chat","history_size":5,"history_ttl":"1m","allow_publish_for_subscriber":true}]"#,
            ),
        ]);
        assert_eq!(config.hub().outbox_bytes, 64 << 10);
        let limits = config.plugins.limits(Hook::Rpc, Class::Immediate);
        assert_eq!(limits.deadline, Some(Duration::from_millis(50)));
        let limits = config.plugins.limits(Hook::Rpc, Class::Waiting);
        assert_eq!(limits.deadline, Some(Duration::from_secs(2)));
        let limits = config.plugins.limits(Hook::Filtering, Class::Waiting);
        assert_eq!(limits.deadline, Some(Duration::from_millis(5)));
        let realtime = config.into_realtime();
        assert_eq!(realtime.client.command_rate.unwrap().get(), 50);
        assert_eq!(realtime.token.algorithms, [RealtimeAlgorithm::Hs512]);
        assert!(realtime.token.audience.unwrap().accepts("us"));
        let chat = &realtime.channel.namespaces["chat"];
        assert_eq!(chat.history.unwrap().size, 5);
        assert!(chat.publish.for_subscriber);
    }

    #[test]
    fn defaults_of_configuration_and_core_agree() {
        let ours = config(&[]).into_realtime();
        let core = RealtimeConfig::default();
        assert_eq!(ours.client.ping_interval, core.client.ping_interval);
        assert_eq!(ours.client.pong_timeout, core.client.pong_timeout);
        assert_eq!(ours.client.stale_close_delay, core.client.stale_close_delay);
        assert_eq!(ours.client.channel_limit, core.client.channel_limit);
        assert_eq!(
            ours.client.position_check_delay,
            core.client.position_check_delay
        );
        assert_eq!(
            ours.client.history_max_publications,
            core.client.history_max_publications
        );
        assert_eq!(ours.channel.max_name_bytes, core.channel.max_name_bytes);
        assert_eq!(
            ours.channel.without_namespace.meta_ttl,
            core.channel.without_namespace.meta_ttl
        );
        assert_eq!(ours.channel.private_prefix, core.channel.private_prefix);
    }
}

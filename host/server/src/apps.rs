//! Created apps as the realtime core sees them.
//!
//! Decides what an app that the admin API created takes from the configuration file, which owns app `default`: its
//! namespaces and habits, never its credentials or insecure switches (threat model N1). The limits that apply to
//! other people's apps (threat model, the rows marked T) apply where the file sets none.

use std::{num::NonZeroU32, sync::Arc};

use tidegate_control::AppName;
use tidegate_realtime::{
    broker::BrokerError,
    config::{ClientConfig, DEFAULT_COMMAND_RATE, HmacSecret, RealtimeConfig, TokenConfig},
    ids::{AppId, ClientId},
    node::{Node, ScheduleFound, SessionFilter, SessionsFound},
};

use crate::admin::{AppHost, Later};

/// Connections of a created app on this node.
pub const DEFAULT_APP_CONNECTIONS: usize = 10_000;

/// Connections of one user of a created app on this node: a person's devices and tabs.
pub const DEFAULT_USER_CONNECTIONS: usize = 20;

/// Opens and closes apps on a realtime node.
#[derive(Debug)]
pub struct RealtimeApps {
    node: Arc<Node>,
    /// Those of app `default`.
    settings: RealtimeConfig,
}

impl RealtimeApps {
    /// `settings` are those of app `default`.
    pub fn new(node: Arc<Node>, settings: RealtimeConfig) -> Self {
        Self { node, settings }
    }
}

impl AppHost for RealtimeApps {
    fn open(&self, app: &AppName, token_secret: &str) {
        match AppId::parse(app.as_str()) {
            Ok(id) => self
                .node
                .set_app(&id, settings(&self.settings, token_secret)),
            // Both crates have the same rule, which a test compares.
            Err(error) => tracing::error!(%app, %error, "an app cannot be opened"),
        }
    }

    fn close(&self, app: &AppName) {
        if let Ok(id) = AppId::parse(app.as_str()) {
            self.node.remove_app(&id);
        }
    }

    fn sessions(
        &self,
        app: &AppName,
        filter: SessionFilter,
    ) -> Later<Result<SessionsFound, BrokerError>> {
        let Ok(id) = AppId::parse(app.as_str()) else {
            return Box::pin(std::future::ready(Ok(SessionsFound::default())));
        };
        Box::pin(self.node.sessions(&id, filter).wait())
    }

    fn kick(&self, app: &AppName, client: ClientId) -> Later<Result<(), BrokerError>> {
        let Ok(id) = AppId::parse(app.as_str()) else {
            return Box::pin(std::future::ready(Ok(())));
        };
        Box::pin(self.node.kick(&id, client).wait())
    }

    fn schedule(&self, app: &AppName) -> Later<ScheduleFound> {
        let Ok(id) = AppId::parse(app.as_str()) else {
            return Box::pin(std::future::ready(ScheduleFound::default()));
        };
        Box::pin(self.node.scheduled_runs(&id).wait())
    }

    fn num_nodes(&self) -> usize {
        self.node.num_nodes()
    }
}

fn settings(of_default: &RealtimeConfig, token_secret: &str) -> RealtimeConfig {
    let RealtimeConfig {
        client,
        token: _,
        channel,
    } = of_default.clone();
    RealtimeConfig {
        client: ClientConfig {
            connection_limit: Some(
                client
                    .connection_limit
                    .map_or(DEFAULT_APP_CONNECTIONS, |of_node| {
                        of_node.min(DEFAULT_APP_CONNECTIONS)
                    }),
            ),
            user_connection_limit: client
                .user_connection_limit
                .or(Some(DEFAULT_USER_CONNECTIONS)),
            command_rate: client
                .command_rate
                .or(Some::<NonZeroU32>(DEFAULT_COMMAND_RATE)),
            allow_anonymous_connect_without_token: false,
            is_insecure: false,
            ..client
        },
        token: TokenConfig {
            hmac_secret: Some(HmacSecret::new(token_secret.as_bytes())),
            require_exp: true,
            ..TokenConfig::default()
        },
        channel,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n1_a_created_app_takes_neither_credentials_nor_insecure_switches_from_the_file() {
        let mut of_default = RealtimeConfig::default();
        of_default.client.is_insecure = true;
        of_default.client.allow_anonymous_connect_without_token = true;
        of_default.client.connection_limit = Some(50_000);
        of_default.token.hmac_secret = Some(HmacSecret::new(*b"the secret of app default"));
        of_default.token.hmac_previous_secret = of_default.token.hmac_secret.clone();
        of_default.token.insecure_skip_signature_verify = true;
        of_default.token.insecure_allow_weak_hmac = true;
        let settings = settings(&of_default, "tgt_0123456789abcdef0123456789abcdef");
        assert!(!settings.client.is_insecure);
        assert!(!settings.client.allow_anonymous_connect_without_token);
        assert!(!settings.token.insecure_skip_signature_verify);
        assert!(!settings.token.insecure_allow_weak_hmac);
        assert!(settings.token.hmac_previous_secret.is_none());
        assert!(settings.token.require_exp, "threat model A4");
        assert_eq!(
            settings.client.connection_limit,
            Some(DEFAULT_APP_CONNECTIONS)
        );
        assert_eq!(
            settings.client.user_connection_limit,
            Some(DEFAULT_USER_CONNECTIONS)
        );
        assert_eq!(settings.client.command_rate, Some(DEFAULT_COMMAND_RATE));
    }

    #[test]
    fn every_name_of_an_app_is_an_id() {
        for name in ["a", "shop-2", &"a".repeat(64), "a-"] {
            let is_name = AppName::parse(name).is_ok();
            assert_eq!(is_name, AppId::parse(name).is_ok(), "{name}");
        }
    }
}

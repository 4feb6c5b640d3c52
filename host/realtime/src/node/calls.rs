//! The calls of the server API (client-protocol section 15.2), in the terms of its requests and results.
//!
//! Permissions, patterns and private names do not bind the API; namespaces, formats and plugins do.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use tidegate_protocol::{
    ApiErrorCode, DisconnectCode, Raw, StreamPosition, UnsubscribeCode,
    server_api::{
        ApiError, ChannelStats, ChannelsRequest, ChannelsResult, ClientInfo, DisconnectRequest,
        EmptyResult, HistoryPublication, HistoryRemoveRequest, HistoryRequest, HistoryResult,
        InfoResult, NodeInfo, PublishRequest, PublishResult, RefreshRequest, UnsubscribeRequest,
    },
};

use super::Node;
use crate::{
    app::App,
    broker::{BrokerError, HistoryLimit, HistoryOrder, HistoryQuery},
    channel::BadName,
    config::MAX_PAGE_BYTES,
    entrance::Selection,
    hooks::{Draft, Origin, Progress},
    ids::{AppId, ChannelKey, ClientId, SessionId},
    link::{Link, Signal},
    publish::{Publishing, publish},
    session::Failure,
};

/// Channels matched with a pattern between two yields.
const CHANNELS_AT_ONCE: usize = 256;

/// What a call comes to.
pub type Called<T> = Progress<Result<T, ApiError>>;

pub(super) fn error(code: ApiErrorCode, message: impl Into<String>) -> ApiError {
    ApiError {
        message: message.into(),
        ..code.into()
    }
}

pub(super) fn from_name(bad: BadName) -> ApiError {
    match bad {
        BadName::UnknownNamespace => error(ApiErrorCode::UnknownChannel, bad.to_string()),
        BadName::Empty | BadName::TooLong | BadName::NotPrintable | BadName::Pattern => {
            error(ApiErrorCode::BadRequest, bad.to_string())
        }
    }
}

fn from_failure(failure: Failure) -> ApiError {
    match failure {
        Failure::Error(error) => ApiError {
            code: error.code,
            message: error.message,
        },
        // A plugin wants its sender gone; there is no connection to end.
        Failure::Close(closing) => ApiError {
            code: tidegate_protocol::ErrorCode::PermissionDenied.code(),
            message: format!("permission denied: {}", closing.reason),
        },
    }
}

pub(super) fn from_broker(_: BrokerError) -> ApiError {
    ApiErrorCode::Internal.into()
}

pub(super) fn disconnect_signal(code: DisconnectCode) -> Signal {
    Signal::Disconnect {
        code: code.code(),
        reason: code.text().into(),
    }
}

pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Selects connected sessions as the API does: those of the user, narrowed to a client and to a session where
/// they are named. What names nothing selects nothing.
fn select(app: &App, user: &str, client: &str, session: &str) -> Vec<Arc<Link>> {
    let mut links = if client.is_empty() {
        app.find_user(user).into_vec()
    } else {
        let client = ClientId::parse(client);
        let link = client.and_then(|client| app.find_client_of(user, client));
        link.into_iter().collect()
    };
    if !session.is_empty() {
        let session = SessionId::parse(session);
        links.retain(|link| session.is_some() && session == link.session());
    }
    links
}

/// Leaves a signal with the sessions that are meant, those that are being let in included.
fn tell(app: &App, selection: Selection, signal: &Signal) {
    app.entrance().tell(selection, signal, |selection| {
        let Selection {
            user,
            client,
            session,
            spared: _,
        } = selection;
        select(app, user, client, session)
    });
}

impl Node {
    pub(super) fn app_of_call(&self, id: &AppId) -> Result<Arc<App>, ApiError> {
        self.app(id)
            .ok_or_else(|| error(ApiErrorCode::NotFound, "not found: there is no such app"))
    }

    /// `request.data` holds the decoded data; its base64 twin is not looked at.
    pub fn publish(self: &Arc<Self>, id: &AppId, request: PublishRequest) -> Called<PublishResult> {
        let app = match self.app_of_call(id) {
            Ok(app) => app,
            Err(error) => return Progress::Ready(Err(error)),
        };
        let checked = {
            let settings = app.settings();
            let resolved = settings.channel.resolve(&request.channel);
            resolved.map_err(from_name).and_then(|resolved| {
                let format = resolved.options.publication_data_format;
                if format.accepts(&request.data) {
                    Ok(())
                } else {
                    Err(error(ApiErrorCode::BadRequest, format.complaint()))
                }
            })
        };
        if let Err(error) = checked {
            return Progress::Ready(Err(error));
        }
        let publishing = Publishing {
            draft: Box::new(Draft {
                app: id.clone(),
                channel: request.channel.into(),
                origin: Origin::ServerApi,
                data: request.data.as_bytes().clone(),
                tags: request
                    .tags
                    .into_iter()
                    .map(|(key, value)| (key.into_boxed_str(), value.into_boxed_str()))
                    .collect(),
                skip_history: request.skip_history,
                idempotency_key: Some(request.idempotency_key)
                    .filter(|key| !key.is_empty())
                    .map(String::into_boxed_str),
                delta: request.delta,
                hops: 0,
            }),
            data: request.data,
            key: None,
            chan_info: Raw::default(),
            version: request.version,
            version_epoch: request.version_epoch.into(),
        };
        let node = Arc::clone(self);
        publish(self, &app, publishing).map(move |outcome| {
            node.metrics().publishes.count(outcome.is_ok());
            let position = outcome.map_err(from_failure)?;
            let StreamPosition { offset, epoch } = position.unwrap_or_default();
            Ok(PublishResult { offset, epoch })
        })
    }

    pub fn history(&self, id: &AppId, request: HistoryRequest) -> Called<HistoryResult> {
        let key = ChannelKey::new(id, &request.channel);
        let query = match self.history_query(id, request) {
            Ok(query) => query,
            Err(error) => return Progress::Ready(Err(error)),
        };
        let since_epoch = query.since.as_ref().map(|since| since.epoch.clone());
        self.broker().history(&key, query).map(move |page| {
            let page = page.map_err(from_broker)?.within(MAX_PAGE_BYTES);
            let is_same =
                since_epoch.is_none_or(|epoch| epoch.is_empty() || epoch == page.top.epoch);
            if !is_same {
                return Err(ApiErrorCode::UnrecoverablePosition.into());
            }
            let publications = page
                .publications
                .iter()
                .map(|publication| HistoryPublication {
                    data: publication.data.clone(),
                    info: publication.info.as_ref().map(|info| ClientInfo {
                        user: info.user.clone(),
                        client: info.client.clone(),
                        conn_info: info.conn_info.clone(),
                        chan_info: info.chan_info.clone(),
                    }),
                    offset: publication.offset,
                    tags: publication.tags.clone(),
                });
            Ok(HistoryResult {
                publications: publications.collect(),
                epoch: page.top.epoch,
                offset: page.top.offset,
            })
        })
    }

    fn history_query(&self, id: &AppId, request: HistoryRequest) -> Result<HistoryQuery, ApiError> {
        let app = self.app_of_call(id)?;
        let settings = app.settings();
        let options = settings
            .channel
            .resolve(&request.channel)
            .map_err(from_name)?
            .options;
        if options.history.is_none() {
            return Err(ApiErrorCode::NotAvailable.into());
        }
        let since = request.since.map(|since| StreamPosition {
            offset: since.offset,
            epoch: since.epoch,
        });
        let is_before_all = since.as_ref().is_some_and(|since| since.offset == 0);
        if request.reverse && is_before_all {
            let text = "bad request: nothing comes before offset 0";
            return Err(error(ApiErrorCode::BadRequest, text));
        }
        // Back ends page as clients do: an answer of the whole history has no bound (threat model section 3).
        let most = settings.client.history_max_publications;
        Ok(HistoryQuery {
            limit: match usize::try_from(request.limit) {
                Ok(0) => HistoryLimit::PositionOnly,
                Ok(limit) => HistoryLimit::AtMost(limit.min(most)),
                Err(_) => HistoryLimit::AtMost(most),
            },
            since,
            order: if request.reverse {
                HistoryOrder::NewestFirst
            } else {
                HistoryOrder::OldestFirst
            },
            meta_ttl: options.meta_ttl,
        })
    }

    pub fn history_remove(&self, id: &AppId, request: HistoryRemoveRequest) -> Called<EmptyResult> {
        let HistoryRemoveRequest { channel } = request;
        let checked = self.app_of_call(id).and_then(|app| {
            let settings = app.settings();
            let resolved = settings.channel.resolve(&channel);
            let has_history = resolved.map_err(from_name)?.options.history.is_some();
            if has_history {
                Ok(())
            } else {
                Err(ApiErrorCode::NotAvailable.into())
            }
        });
        if let Err(error) = checked {
            return Progress::Ready(Err(error));
        }
        let key = ChannelKey::new(id, &channel);
        self.broker()
            .remove_history(&key)
            .map(|done| done.map(|()| EmptyResult {}).map_err(from_broker))
    }

    /// Ends the sessions of a user, or one of them; success does not say that there was any.
    pub fn disconnect(&self, id: &AppId, request: DisconnectRequest) -> Called<EmptyResult> {
        let app = match self.app_of_call(id) {
            Ok(app) => app,
            Err(error) => return Progress::Ready(Err(error)),
        };
        let (code, reason) = match request.disconnect {
            Some(given) if given.code != 0 => (given.code, given.reason.into()),
            _ => {
                let code = DisconnectCode::ForceNoReconnect;
                (code.code(), code.text().into())
            }
        };
        let selection = Selection {
            user: request.user,
            client: request.client,
            session: request.session,
            spared: request
                .whitelist
                .iter()
                .filter_map(|client| ClientId::parse(client))
                .collect(),
        };
        tell(&app, selection, &Signal::Disconnect { code, reason });
        Progress::Ready(Ok(EmptyResult {}))
    }

    /// Takes a subscription, or all of them, off a user's sessions.
    pub fn unsubscribe(&self, id: &AppId, request: UnsubscribeRequest) -> Called<EmptyResult> {
        let app = match self.app_of_call(id) {
            Ok(app) => app,
            Err(error) => return Progress::Ready(Err(error)),
        };
        let channel: Arc<str> = request.channel.into();
        let code = UnsubscribeCode::Server;
        let selection = Selection {
            user: request.user,
            client: request.client,
            session: request.session,
            spared: Vec::new(),
        };
        let signal = Signal::Unsubscribe {
            channel,
            code: code.code(),
            reason: code.text().into(),
        };
        tell(&app, selection, &signal);
        Progress::Ready(Ok(EmptyResult {}))
    }

    /// Changes when a user's sessions expire and what others are shown of them.
    pub fn refresh(&self, id: &AppId, request: RefreshRequest) -> Called<EmptyResult> {
        let app = match self.app_of_call(id) {
            Ok(app) => app,
            Err(error) => return Progress::Ready(Err(error)),
        };
        let RefreshRequest {
            user,
            client,
            expired,
            expire_at,
            info,
            session,
        } = request;
        let expires_at = u64::try_from(expire_at).ok().filter(|at| *at > 0);
        let selection = Selection {
            user,
            client,
            session,
            spared: Vec::new(),
        };
        let signal = Signal::Refresh {
            is_expired: expired,
            expires_at,
            info: info.as_bytes().clone(),
        };
        tell(&app, selection, &signal);
        Progress::Ready(Ok(EmptyResult {}))
    }

    /// The app's channels with members; `pattern` is matched with `*` alone.
    pub fn channels(&self, id: &AppId, request: ChannelsRequest) -> Called<ChannelsResult> {
        let pattern = request.pattern;
        let (hub, id) = (Arc::clone(self.hub()), id.clone());
        Progress::Pending(Box::pin(async move {
            let found = hub.channels_of(id.as_str()).await;
            let mut channels = BTreeMap::new();
            for (index, (key, members)) in found.into_iter().enumerate() {
                if pattern.is_empty() || is_match(&pattern, key.channel()) {
                    let num_clients = count(members);
                    channels.insert(key.channel().to_owned(), ChannelStats { num_clients });
                }
                if index % CHANNELS_AT_ONCE == CHANNELS_AT_ONCE - 1 {
                    tokio::task::yield_now().await;
                }
            }
            Ok(ChannelsResult { channels })
        }))
    }

    /// This node, as far as the app may see it.
    pub fn info(&self, id: &AppId) -> Called<InfoResult> {
        let app = match self.app_of_call(id) {
            Ok(app) => app,
            Err(error) => return Progress::Ready(Err(error)),
        };
        let (num_clients, num_users) = app.num_clients_and_users();
        let (num_channels, num_subs) = self.hub().num_channels_and_members_of(id.as_str());
        let uptime = self.started.elapsed().as_secs();
        let node = NodeInfo {
            uid: self.uid.clone(),
            name: self.parts.name.clone(),
            version: self.parts.version.clone(),
            num_clients: count(num_clients),
            num_users: count(num_users),
            num_subs: count(num_subs),
            num_channels: count(num_channels),
            uptime: u32::try_from(uptime).unwrap_or(u32::MAX),
            metrics: None,
            process: None,
        };
        Progress::Ready(Ok(InfoResult { nodes: vec![node] }))
    }
}

/// A pattern in which `*` stands for anything, in one pass with one step back.
fn is_match(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut next) = (0, 0);
    let mut last_star = None;
    while let Some(byte) = text.get(at) {
        match pattern.get(next) {
            Some(b'*') => {
                last_star = Some((next, at));
                next += 1;
            }
            Some(wanted) if wanted == byte || *wanted == b'?' => {
                at += 1;
                next += 1;
            }
            _ => {
                let Some((star, taken)) = last_star else {
                    return false;
                };
                last_star = Some((star, taken + 1));
                at = taken + 1;
                next = star + 1;
            }
        }
    }
    pattern[next.min(pattern.len())..]
        .iter()
        .all(|byte| *byte == b'*')
}

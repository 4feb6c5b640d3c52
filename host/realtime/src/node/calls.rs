//! The calls of the server API (client-protocol section 15.2), in the terms of its requests and results.
//!
//! Permissions, patterns and private names do not bind the API; namespaces, formats and plugins do.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use tidegate_protocol::{
    ApiErrorCode, DisconnectCode, Raw, StreamPosition,
    server_api::{
        ApiError, BoolValue, ClientInfo, DisconnectRequest, EmptyResult, HistoryPublication,
        HistoryRemoveRequest, HistoryRequest, HistoryResult, InfoResult, NodeInfo, PublishRequest,
        PublishResult, RefreshRequest, SubscribeRequest, UnsubscribeRequest,
    },
};

use super::{Node, vitals::sees_the_node};
use crate::{
    app::App,
    broker::{BrokerError, HistoryLimit, HistoryOrder, HistoryQuery},
    channel::BadName,
    cluster::{Announcement, Blob, Greeting, Order, OtherNode},
    config::MAX_PAGE_BYTES,
    entrance::Selection,
    hooks::{Draft, Origin, Progress},
    ids::{AppId, ChannelKey, ClientId},
    link::Signal,
    publish::{Publishing, publish},
    session::{Enlistment, Failure, Now},
};

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

/// Whom a request means.
fn selection(user: String, client: String, session: String) -> Selection {
    Selection {
        user: Some(user),
        client,
        session,
        ..Selection::default()
    }
}

/// This node has done it, and the others were not told.
pub(super) fn from_bus(failed: &BrokerError) -> ApiError {
    let code = ApiErrorCode::Internal;
    let text = code.text();
    error(
        code,
        format!("{text}: the other nodes could not be asked ({failed}); try again"),
    )
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
    pub fn disconnect(
        self: &Arc<Self>,
        id: &AppId,
        request: DisconnectRequest,
    ) -> Called<EmptyResult> {
        let (code, reason) = match request.disconnect {
            Some(given) if given.code != 0 => (given.code, given.reason),
            _ => {
                let code = DisconnectCode::ForceNoReconnect;
                (code.code(), code.text().to_owned())
            }
        };
        let of = Selection {
            spared: request
                .whitelist
                .iter()
                .filter_map(|client| ClientId::parse(client))
                .collect(),
            ..selection(request.user, request.client, request.session)
        };
        self.order_by_call(id, Order::Disconnect { of, code, reason })
    }

    /// Takes a subscription, or all of them, off a user's sessions.
    pub fn unsubscribe(
        self: &Arc<Self>,
        id: &AppId,
        request: UnsubscribeRequest,
    ) -> Called<EmptyResult> {
        let UnsubscribeRequest {
            channel,
            user,
            client,
            session,
        } = request;
        let of = selection(user, client, session);
        self.order_by_call(id, Order::Unsubscribe { of, channel })
    }

    /// Changes when a user's sessions expire and what others are shown of them.
    pub fn refresh(self: &Arc<Self>, id: &AppId, request: RefreshRequest) -> Called<EmptyResult> {
        let RefreshRequest {
            user,
            client,
            expired,
            expire_at,
            info,
            session,
        } = request;
        let order = Order::Refresh {
            of: selection(user, client, session),
            is_expired: expired,
            expires_at: u64::try_from(expire_at).ok().filter(|at| *at > 0),
            info: Blob(info.into_bytes()),
        };
        self.order_by_call(id, order)
    }

    /// Subscribes a user's sessions on the server's side; those that cannot have the subscription, or have it, stay
    /// as they are. `info` and `data` hold the decoded bytes; their base64 twins are not looked at.
    pub fn subscribe(
        self: &Arc<Self>,
        id: &AppId,
        request: SubscribeRequest,
    ) -> Called<EmptyResult> {
        let SubscribeRequest {
            channel,
            user,
            expire_at,
            info,
            client,
            data,
            recover_since,
            r#override,
            session,
            b64info: _,
            b64data: _,
        } = request;
        let given = r#override.unwrap_or_default();
        let value = |option: Option<BoolValue>| option.map(|option| option.value);
        let enlistment = Enlistment {
            channel,
            info: Blob(info.into_bytes()),
            data: Blob(data.into_bytes()),
            expires_at: u64::try_from(expire_at).ok().filter(|at| *at > 0),
            recover_since,
            presence: value(given.presence),
            join_leave: value(given.join_leave),
            force_push_join_leave: value(given.force_push_join_leave),
            force_positioning: value(given.force_positioning),
            force_recovery: value(given.force_recovery),
        };
        let checked = self.app_of_call(id).and_then(|app| {
            let settings = app.settings();
            let resolved = settings.channel.resolve(&enlistment.channel);
            let options = resolved.map_err(from_name)?.options;
            let now = Now::read().unix();
            if enlistment.expires_at.is_some_and(|at| at <= now) {
                let text = "bad request: expire_at is in the past";
                return Err(error(ApiErrorCode::BadRequest, text));
            }
            let terms = enlistment.terms(options, now);
            terms.map(|_| ()).map_err(from_failure)
        });
        if let Err(error) = checked {
            return Progress::Ready(Err(error));
        }
        let of = selection(user, client, session);
        self.order_by_call(id, Order::Subscribe { of, enlistment })
    }

    fn order_by_call(self: &Arc<Self>, id: &AppId, order: Order) -> Called<EmptyResult> {
        let app = match self.app_of_call(id) {
            Ok(app) => app,
            Err(error) => return Progress::Ready(Err(error)),
        };
        self.order(&app, order).map(|told| {
            told.map(|()| EmptyResult {})
                .map_err(|failed| from_bus(&failed))
        })
    }

    /// The nodes, as far as the app may see them: this one as it is, the others by what they last said of
    /// themselves. Figures of a whole node are of all its apps, and only `default` sees them.
    pub fn info(&self, id: &AppId) -> Called<InfoResult> {
        let app = match self.app_of_call(id) {
            Ok(app) => app,
            Err(error) => return Progress::Ready(Err(error)),
        };
        let own = OtherNode {
            uid: self.uid.clone(),
            announcement: Announcement {
                name: self.parts.name.clone(),
                version: self.parts.version.clone(),
                uptime: self.uptime(),
                apps: BTreeMap::from([(id.as_str().to_owned(), self.own_counts(&app))]),
                process: self.process(),
                metrics: self.own_metrics(),
                greeting: Greeting::Again,
            },
        };
        let others = self.cluster().map(|cluster| cluster.others());
        let sees_the_node = sees_the_node(id);
        let nodes = std::iter::once(own)
            .chain(others.into_iter().flatten())
            .map(|node| {
                let OtherNode { uid, announcement } = node;
                let counts = announcement.apps.get(id.as_str());
                let counts = counts.copied().unwrap_or_default();
                NodeInfo {
                    uid: uid.to_string(),
                    name: announcement.name,
                    version: announcement.version,
                    num_clients: counts.clients,
                    num_users: counts.users,
                    num_subs: counts.subs,
                    num_channels: counts.channels,
                    uptime: announcement.uptime,
                    metrics: announcement.metrics.filter(|_| sees_the_node),
                    process: announcement.process.filter(|_| sees_the_node),
                }
            });
        Progress::Ready(Ok(InfoResult {
            nodes: nodes.collect(),
        }))
    }
}

/// A pattern in which `*` stands for anything, in one pass with one step back.
pub(super) fn is_match(pattern: &str, text: &str) -> bool {
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

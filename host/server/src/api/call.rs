//! One method call: parse the request, check its form, ask the node.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{StreamExt, stream};
use serde::{Serialize, de::DeserializeOwned};
use tidegate_protocol::{
    ApiErrorCode, Raw,
    codes::CUSTOM_DISCONNECT_CODES,
    server_api::{
        ApiError, ApiResponse, BroadcastRequest, BroadcastResult, ChannelsRequest,
        DisconnectRequest, HistoryRemoveRequest, HistoryRequest, InfoRequest, PresenceRequest,
        PresenceResult, PresenceStatsRequest, PublishRequest, RefreshRequest, SubscribeRequest,
        UnsubscribeRequest,
    },
};
use tidegate_realtime::hooks::Progress;

use super::{Answer, Api, auth::Caller, comes_later};

/// Publishes of one broadcast that wait for the broker at the same time.
const BROADCAST_IN_FLIGHT: usize = 64;

/// Members written where the request is served: about half a millisecond.
const PRESENCE_AT_ONCE: usize = 1_024;

/// Longest idempotency key and epoch (threat model section 3).
const MAX_LABEL_BYTES: usize = 64;

macro_rules! methods {
    ($( $variant:ident = $name:literal, $number:literal; )*) => {
        /// Methods of the reference's API, whether this release has them or not.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Method { $($variant,)* }

        impl Method {
            #[cfg(test)]
            pub(super) const ALL: &[Self] = &[$(Self::$variant,)*];

            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            pub(super) fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            /// By the number of the legacy form.
            pub(super) const fn from_number(number: u64) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

methods! {
    Publish = "publish", 0;
    Broadcast = "broadcast", 1;
    Unsubscribe = "unsubscribe", 2;
    Disconnect = "disconnect", 3;
    Presence = "presence", 4;
    PresenceStats = "presence_stats", 5;
    History = "history", 6;
    HistoryRemove = "history_remove", 7;
    Channels = "channels", 8;
    Info = "info", 9;
    Rpc = "rpc", 10;
    Subscribe = "subscribe", 11;
    Refresh = "refresh", 12;
    MapPublish = "map_publish", 33;
    MapRemove = "map_remove", 34;
    MapReadState = "map_read_state", 35;
    MapReadStream = "map_read_stream", 36;
    MapStats = "map_stats", 37;
    MapClear = "map_clear", 38;
    SharedPollPublish = "shared_poll_publish", 39;
}

/// Why a call has no result.
#[derive(Debug)]
pub(super) enum Fault {
    /// The body is not a request of the method.
    Malformed(&'static str),
    /// The request has a member that the method does not know.
    UnknownMember(&'static str),
    /// The key is narrowed to other methods.
    Forbidden,
    /// The method answered with an error.
    Api(ApiError),
}

impl From<ApiError> for Fault {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<ApiErrorCode> for Fault {
    fn from(code: ApiErrorCode) -> Self {
        Self::Api(code.into())
    }
}

impl Api {
    /// Calls a method with the JSON of its request; answers the JSON of its result.
    pub(super) async fn call(
        &self,
        caller: &Caller,
        method: Method,
        request: &[u8],
    ) -> Result<Vec<u8>, Fault> {
        if !caller.may(method) {
            return Err(Fault::Forbidden);
        }
        let app = &caller.app;
        match method {
            Method::Publish => {
                let mut request: PublishRequest = parse(request)?;
                check_channel(&request.channel)?;
                request.data = data(request.data, std::mem::take(&mut request.b64data))?;
                check_labels(&request.idempotency_key, &request.version_epoch)?;
                finish(self.realtime.publish(app, request)).await
            }
            Method::Broadcast => self.broadcast(caller, parse(request)?).await,
            Method::History => {
                let request: HistoryRequest = parse(request)?;
                check_channel(&request.channel)?;
                finish(self.realtime.history(app, request)).await
            }
            Method::HistoryRemove => {
                let request: HistoryRemoveRequest = parse(request)?;
                check_channel(&request.channel)?;
                finish(self.realtime.history_remove(app, request)).await
            }
            Method::Disconnect => {
                let request: DisconnectRequest = parse(request)?;
                check_disconnect(&request)?;
                finish(self.realtime.disconnect(app, request)).await
            }
            Method::Info => {
                let InfoRequest {} = parse(request)?;
                finish(self.realtime.info(app)).await
            }
            Method::Subscribe => {
                let mut request: SubscribeRequest = parse(request)?;
                check_channel(&request.channel)?;
                request.data = decoded(request.data, std::mem::take(&mut request.b64data))?;
                request.info = decoded(request.info, std::mem::take(&mut request.b64info))?;
                let since = request.recover_since.as_ref();
                check_labels("", since.map_or("", |since| &since.epoch))?;
                // Shown to others, whatever they read.
                if !request.info.is_empty() && !request.info.is_json() {
                    return Err(ApiErrorCode::BadRequest.into());
                }
                finish(self.realtime.subscribe(app, request)).await
            }
            Method::Unsubscribe => {
                let request: UnsubscribeRequest = parse(request)?;
                finish(self.realtime.unsubscribe(app, request)).await
            }
            Method::Refresh => {
                let request: RefreshRequest = parse(request)?;
                finish(self.realtime.refresh(app, request)).await
            }
            Method::Channels => {
                let request: ChannelsRequest = parse(request)?;
                finish(self.realtime.channels(app, request)).await
            }
            // The API has no extensions, so every RPC method is unknown.
            Method::Rpc => Err(ApiErrorCode::NotFound.into()),
            Method::Presence => {
                let request: PresenceRequest = parse(request)?;
                check_channel(&request.channel)?;
                presence(wait(self.realtime.presence(app, request)).await?).await
            }
            Method::PresenceStats => {
                let request: PresenceStatsRequest = parse(request)?;
                check_channel(&request.channel)?;
                finish(self.realtime.presence_stats(app, request)).await
            }
            Method::MapPublish
            | Method::MapRemove
            | Method::MapReadState
            | Method::MapReadStream
            | Method::MapStats
            | Method::MapClear
            | Method::SharedPollPublish => Err(comes_later(method.name()).into()),
        }
    }

    /// One publish per channel; each has its own result, and the data is shared, not copied.
    async fn broadcast(
        &self,
        caller: &Caller,
        request: BroadcastRequest,
    ) -> Result<Vec<u8>, Fault> {
        let BroadcastRequest {
            channels,
            data: raw,
            b64data,
            skip_history,
            tags,
            idempotency_key,
            delta,
            version,
            version_epoch,
        } = request;
        if channels.is_empty() {
            return Err(ApiErrorCode::BadRequest.into());
        }
        let data = data(raw, b64data)?;
        check_labels(&idempotency_key, &version_epoch)?;
        let publish = |channel: String| {
            if check_channel(&channel).is_err() {
                return Progress::Ready(Err(ApiErrorCode::BadRequest.into()));
            }
            let request = PublishRequest {
                channel,
                data: data.clone(),
                b64data: String::new(),
                skip_history,
                tags: tags.clone(),
                idempotency_key: idempotency_key.clone(),
                delta,
                version,
                version_epoch: version_epoch.clone(),
            };
            self.realtime.publish(&caller.app, request)
        };
        let responses = stream::iter(channels)
            .map(|channel| async {
                // A broadcast to thousands of channels gives way to other requests.
                tokio::task::coop::consume_budget().await;
                ApiResponse::from(wait(publish(channel)).await)
            })
            .buffered(BROADCAST_IN_FLIGHT)
            .collect()
            .await;
        to_json(&BroadcastResult { responses })
    }
}

async fn wait<T>(answer: Answer<T>) -> Result<T, ApiError> {
    match answer {
        Progress::Ready(result) => result,
        Progress::Pending(result) => result.await,
    }
}

async fn finish<T: Serialize>(answer: Answer<T>) -> Result<Vec<u8>, Fault> {
    to_json(&wait(answer).await?)
}

/// Writes who is there; many of them on a thread that may take its time.
async fn presence(result: PresenceResult) -> Result<Vec<u8>, Fault> {
    if result.presence.len() <= PRESENCE_AT_ONCE {
        return to_json(&result);
    }
    let written = tokio::task::spawn_blocking(move || to_json(&result)).await;
    written.unwrap_or_else(|_| Err(ApiErrorCode::Internal.into()))
}

/// Writes a result. Data that clients published in binary is no JSON and has no place in one.
fn to_json(result: &impl Serialize) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(result).map_err(|_| {
        Fault::Api(ApiError {
            code: ApiErrorCode::Internal.code(),
            message: "internal server error: the result holds data that is not JSON".to_owned(),
        })
    })
}

pub(super) fn error_to_json(error: &ApiError) -> Vec<u8> {
    serde_json::to_vec(error).expect("a number and a string are JSON")
}

pub(super) fn parse<T: DeserializeOwned>(request: &[u8]) -> Result<T, Fault> {
    // Serde would read a struct from an array, too.
    if !request.trim_ascii_start().starts_with(b"{") {
        return Err(Fault::Malformed("the request body is not a JSON object"));
    }
    serde_json::from_slice(request).map_err(|error| {
        // The text of the error quotes the input, which must not travel back.
        if error.is_data() && error.to_string().starts_with("unknown field") {
            Fault::UnknownMember("the request has a member that this method does not know")
        } else if error.is_data() {
            Fault::Malformed("a member of the request has the wrong type, or is there twice")
        } else {
            Fault::Malformed("the request body is not valid JSON")
        }
    })
}

fn check_channel(channel: &str) -> Result<(), Fault> {
    if channel.is_empty() {
        return Err(ApiErrorCode::BadRequest.into());
    }
    Ok(())
}

fn check_labels(idempotency_key: &str, version_epoch: &str) -> Result<(), Fault> {
    if idempotency_key.len() > MAX_LABEL_BYTES || version_epoch.len() > MAX_LABEL_BYTES {
        return Err(ApiErrorCode::BadRequest.into());
    }
    Ok(())
}

/// Base64 wins over embedded JSON.
fn decoded(raw: Raw, b64data: String) -> Result<Raw, Fault> {
    if b64data.is_empty() {
        return Ok(raw);
    }
    match STANDARD.decode(b64data) {
        Ok(data) => Ok(Raw::from(bytes::Bytes::from(data))),
        Err(_) => Err(ApiErrorCode::BadRequest.into()),
    }
}

/// What is published; nothing is an error.
fn data(raw: Raw, b64data: String) -> Result<Raw, Fault> {
    let data = decoded(raw, b64data)?;
    if data.is_empty() {
        return Err(ApiErrorCode::BadRequest.into());
    }
    Ok(data)
}

/// A code that clients do not know how to read would leave them guessing whether to come back.
fn check_disconnect(request: &DisconnectRequest) -> Result<(), Fault> {
    let Some(disconnect) = &request.disconnect else {
        return Ok(());
    };
    let is_known = disconnect.code == 0
        || CUSTOM_DISCONNECT_CODES.contains(&disconnect.code)
        || tidegate_protocol::DisconnectCode::from_code(disconnect.code).is_some();
    let fits = disconnect.reason.len() <= tidegate_protocol::codes::MAX_CLOSE_REASON_BYTES;
    if is_known && fits {
        Ok(())
    } else {
        Err(ApiErrorCode::BadRequest.into())
    }
}

//! Requests and results of the server HTTP API.
//!
//! Plain serde structs: what a method means is decided elsewhere. Unknown members are refused (the caller
//! answers 422), bytes are embedded JSON, and each `b64…` twin carries base64 text and wins where both are set.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{codes::ApiErrorCode, raw::Raw};

/// Declares API structs: requests refuse unknown members, results leave zero values out.
macro_rules! api {
    ($(
        $(#[$attribute:meta])*
        $kind:ident $name:ident {
            $( $(#[$field_attribute:meta])* $field:ident: $type:ty, )*
        }
    )*) => {$(
        api!(@$kind $(#[$attribute])* $name { $( $(#[$field_attribute])* $field: $type, )* });
    )*};
    (@request $(#[$attribute:meta])* $name:ident { $( $(#[$field_attribute:meta])* $field:ident: $type:ty, )* }) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $(
                $(#[$field_attribute])*
                #[serde(skip_serializing_if = "is_default")]
                pub $field: $type,
            )*
        }
    };
    (@result $(#[$attribute:meta])* $name:ident { $( $(#[$field_attribute:meta])* $field:ident: $type:ty, )* }) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $( $(#[$field_attribute])* pub $field: $type, )*
        }
    };
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

api! {
    /// A place in a stream.
    request Position {
        offset: u64,
        epoch: String,
    }

    request PublishRequest {
        channel: String,
        data: Raw,
        b64data: String,
        skip_history: bool,
        tags: BTreeMap<String, String>,
        idempotency_key: String,
        /// Absent leaves the namespace's `delta_publish`.
        delta: Option<bool>,
        version: u64,
        version_epoch: String,
    }

    result PublishResult {
        #[serde(skip_serializing_if = "is_default")]
        offset: u64,
        #[serde(skip_serializing_if = "is_default")]
        epoch: String,
    }

    request BroadcastRequest {
        channels: Vec<String>,
        data: Raw,
        b64data: String,
        skip_history: bool,
        tags: BTreeMap<String, String>,
        idempotency_key: String,
        delta: Option<bool>,
        version: u64,
        version_epoch: String,
    }

    /// One envelope per channel, in the order of the request.
    result BroadcastResult {
        responses: Vec<ApiResponse<PublishResult>>,
    }

    request SubscribeRequest {
        channel: String,
        user: String,
        /// Unix seconds.
        expire_at: i64,
        info: Raw,
        b64info: String,
        client: String,
        data: Raw,
        b64data: String,
        recover_since: Option<Position>,
        r#override: Option<SubscribeOverride>,
        session: String,
    }

    /// Options of one subscription that replace the namespace's.
    request SubscribeOverride {
        presence: Option<BoolValue>,
        join_leave: Option<BoolValue>,
        force_recovery: Option<BoolValue>,
        force_positioning: Option<BoolValue>,
        force_push_join_leave: Option<BoolValue>,
    }

    request BoolValue {
        value: bool,
    }

    /// An empty channel means all channels.
    request UnsubscribeRequest {
        channel: String,
        user: String,
        client: String,
        session: String,
    }

    request DisconnectRequest {
        user: String,
        disconnect: Option<DisconnectReason>,
        client: String,
        /// Client ids that are spared.
        whitelist: Vec<String>,
        session: String,
    }

    request DisconnectReason {
        code: u32,
        reason: String,
    }

    request RefreshRequest {
        user: String,
        client: String,
        expired: bool,
        /// Unix seconds.
        expire_at: i64,
        info: Raw,
        session: String,
    }

    request PresenceRequest {
        channel: String,
    }

    /// Keyed by client id; the map is there even when it is empty.
    result PresenceResult {
        presence: BTreeMap<String, ClientInfo>,
    }

    result ClientInfo {
        user: String,
        client: String,
        #[serde(skip_serializing_if = "is_default")]
        conn_info: Raw,
        #[serde(skip_serializing_if = "is_default")]
        chan_info: Raw,
    }

    request PresenceStatsRequest {
        channel: String,
    }

    result PresenceStatsResult {
        num_clients: u32,
        num_users: u32,
    }

    request HistoryRequest {
        channel: String,
        /// 0 asks for the position only, below 0 for everything.
        limit: i32,
        since: Option<Position>,
        reverse: bool,
    }

    result HistoryResult {
        publications: Vec<HistoryPublication>,
        #[serde(skip_serializing_if = "is_default")]
        epoch: String,
        #[serde(skip_serializing_if = "is_default")]
        offset: u64,
    }

    result HistoryPublication {
        data: Raw,
        #[serde(skip_serializing_if = "is_default")]
        info: Option<ClientInfo>,
        #[serde(skip_serializing_if = "is_default")]
        offset: u64,
        #[serde(skip_serializing_if = "is_default")]
        tags: BTreeMap<String, String>,
    }

    request HistoryRemoveRequest {
        channel: String,
    }

    request ChannelsRequest {
        /// Glob; empty means every channel.
        pattern: String,
    }

    /// Keyed by channel; the map is there even when it is empty.
    result ChannelsResult {
        channels: BTreeMap<String, ChannelStats>,
    }

    result ChannelStats {
        num_clients: u32,
    }

    request InfoRequest {}

    result InfoResult {
        nodes: Vec<NodeInfo>,
    }

    result NodeInfo {
        uid: String,
        name: String,
        version: String,
        num_clients: u32,
        num_users: u32,
        num_subs: u32,
        num_channels: u32,
        /// Seconds.
        uptime: u32,
        #[serde(skip_serializing_if = "is_default")]
        metrics: Option<NodeMetrics>,
        #[serde(skip_serializing_if = "is_default")]
        process: Option<ProcessInfo>,
    }

    result NodeMetrics {
        /// Seconds between two snapshots.
        interval: f64,
        items: BTreeMap<String, f64>,
    }

    result ProcessInfo {
        /// Percent of one processor.
        cpu: f64,
        /// Bytes.
        rss: i64,
    }

    request RpcRequest {
        method: String,
        params: Raw,
    }

    result RpcResult {
        #[serde(skip_serializing_if = "is_default")]
        data: Raw,
    }

    request MapPublishRequest {
        channel: String,
        key: String,
        data: Raw,
        b64data: String,
        stream_data: Raw,
        b64stream_data: String,
        tags: BTreeMap<String, String>,
        idempotency_key: String,
        delta: Option<bool>,
        version: u64,
        version_epoch: String,
        score: i64,
        /// `if_new`, `if_exists` or empty.
        key_mode: String,
    }

    request MapRemoveRequest {
        channel: String,
        key: String,
        idempotency_key: String,
    }

    result MapWriteResult {
        #[serde(skip_serializing_if = "is_default")]
        offset: u64,
        #[serde(skip_serializing_if = "is_default")]
        epoch: String,
        #[serde(skip_serializing_if = "is_default")]
        suppressed: bool,
        #[serde(skip_serializing_if = "is_default")]
        suppress_reason: String,
    }

    request MapReadStateRequest {
        channel: String,
        cursor: String,
        limit: i32,
        key: String,
        asc: bool,
        revision_offset: u64,
        revision_epoch: String,
    }

    request MapReadStreamRequest {
        channel: String,
        since_offset: u64,
        since_epoch: String,
        limit: i32,
        reverse: bool,
    }

    result MapReadResult {
        entries: Vec<MapEntry>,
        #[serde(skip_serializing_if = "is_default")]
        offset: u64,
        #[serde(skip_serializing_if = "is_default")]
        epoch: String,
        #[serde(skip_serializing_if = "is_default")]
        cursor: String,
    }

    result MapEntry {
        key: String,
        #[serde(skip_serializing_if = "is_default")]
        data: Raw,
        #[serde(skip_serializing_if = "is_default")]
        tags: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "is_default")]
        offset: u64,
        #[serde(skip_serializing_if = "is_default")]
        score: i64,
        #[serde(skip_serializing_if = "is_default")]
        removed: bool,
        /// Unix milliseconds.
        #[serde(skip_serializing_if = "is_default")]
        time: i64,
    }

    request MapStatsRequest {
        channel: String,
    }

    result MapStatsResult {
        num_keys: u32,
    }

    request MapClearRequest {
        channel: String,
    }

    request SharedPollPublishRequest {
        channel: String,
        key: String,
        data: Raw,
        b64data: String,
        version: u64,
        epoch: String,
    }

    /// Result of the methods that have nothing to say.
    result EmptyResult {}

    /// An error of the API: in the envelope, or bare in the transport error mode.
    result ApiError {
        code: u32,
        message: String,
    }
}

impl From<ApiErrorCode> for ApiError {
    fn from(code: ApiErrorCode) -> Self {
        Self {
            code: code.code(),
            message: code.text().to_owned(),
        }
    }
}

/// The envelope of one answer: `{"result": …}` or `{"error": …}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApiResponse<T> {
    Result(T),
    Error(ApiError),
}

impl<T> From<Result<T, ApiError>> for ApiResponse<T> {
    fn from(result: Result<T, ApiError>) -> Self {
        match result {
            Ok(result) => Self::Result(result),
            Err(error) => Self::Error(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_holds_a_result_or_an_error() {
        let text = |response: &ApiResponse<PublishResult>| serde_json::to_string(response).unwrap();
        let empty = ApiResponse::Result(PublishResult::default());
        assert_eq!(text(&empty), r#"{"result":{}}"#);
        let error = ApiResponse::Error(ApiErrorCode::UnknownChannel.into());
        assert_eq!(
            text(&error),
            r#"{"error":{"code":102,"message":"unknown channel"}}"#
        );
    }

    #[test]
    fn unknown_members_of_requests_are_refused() {
        assert!(serde_json::from_str::<PublishRequest>(r#"{"channel":"c","x":1}"#).is_err());
        assert!(serde_json::from_str::<InfoRequest>(r#"{"x":1}"#).is_err());
        assert!(serde_json::from_str::<InfoRequest>("{}").is_ok());
    }

    #[test]
    fn data_of_a_request_is_kept_as_it_was_written() {
        let text = r#"{"channel":"c","data":{"b":1, "a":[ ]}}"#;
        let request: PublishRequest = serde_json::from_str(text).unwrap();
        assert_eq!(request.data.as_bytes().as_ref(), br#"{"b":1, "a":[ ]}"#);
        let back = serde_json::to_string(&request).unwrap();
        assert_eq!(back, r#"{"channel":"c","data":{"b":1, "a":[ ]}}"#);
    }

    #[test]
    fn maps_of_results_are_there_even_when_empty() {
        let presence = serde_json::to_string(&PresenceResult::default()).unwrap();
        assert_eq!(presence, r#"{"presence":{}}"#);
        let channels = serde_json::to_string(&ChannelsResult::default()).unwrap();
        assert_eq!(channels, r#"{"channels":{}}"#);
    }
}

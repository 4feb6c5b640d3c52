//! The server API over a running node: names match names, nothing is decided here.

use std::sync::Arc;

use tidegate_protocol::server_api::{
    ChannelsRequest, ChannelsResult, DisconnectRequest, EmptyResult, HistoryRemoveRequest,
    HistoryRequest, HistoryResult, InfoResult, PresenceRequest, PresenceResult,
    PresenceStatsRequest, PresenceStatsResult, PublishRequest, PublishResult, RefreshRequest,
    SubscribeRequest, UnsubscribeRequest,
};
use tidegate_realtime::{ids::AppId, node::Node};

use super::{Answer, Realtime};

impl Realtime for Arc<Node> {
    fn publish(&self, app: &AppId, request: PublishRequest) -> Answer<PublishResult> {
        Node::publish(self, app, request)
    }

    fn history(&self, app: &AppId, request: HistoryRequest) -> Answer<HistoryResult> {
        Node::history(self, app, request)
    }

    fn history_remove(&self, app: &AppId, request: HistoryRemoveRequest) -> Answer<EmptyResult> {
        Node::history_remove(self, app, request)
    }

    fn disconnect(&self, app: &AppId, request: DisconnectRequest) -> Answer<EmptyResult> {
        Node::disconnect(self, app, request)
    }

    fn info(&self, app: &AppId) -> Answer<InfoResult> {
        Node::info(self, app)
    }

    fn subscribe(&self, app: &AppId, request: SubscribeRequest) -> Answer<EmptyResult> {
        Node::subscribe(self, app, request)
    }

    fn unsubscribe(&self, app: &AppId, request: UnsubscribeRequest) -> Answer<EmptyResult> {
        Node::unsubscribe(self, app, request)
    }

    fn refresh(&self, app: &AppId, request: RefreshRequest) -> Answer<EmptyResult> {
        Node::refresh(self, app, request)
    }

    fn presence(&self, app: &AppId, request: PresenceRequest) -> Answer<PresenceResult> {
        Node::presence(self, app, request)
    }

    fn presence_stats(
        &self,
        app: &AppId,
        request: PresenceStatsRequest,
    ) -> Answer<PresenceStatsResult> {
        Node::presence_stats(self, app, request)
    }

    fn channels(&self, app: &AppId, request: ChannelsRequest) -> Answer<ChannelsResult> {
        Node::channels(self, app, request)
    }
}

//! The way of replies onto the link: framed for it, and counted.

use tidegate_protocol::{EncodeError, Frame, Publication, Reply, frame};

use crate::{link::Link, metrics::RealtimeMetrics, session::Sink};

/// Frames replies onto a link.
pub(super) struct LinkSink<'a> {
    link: &'a Link,
    metrics: &'a RealtimeMetrics,
    /// The first message that could not be encoded.
    pub(super) fault: Option<EncodeError>,
}

impl<'a> LinkSink<'a> {
    pub(super) fn new(link: &'a Link, metrics: &'a RealtimeMetrics) -> Self {
        Self {
            link,
            metrics,
            fault: None,
        }
    }

    fn push(&mut self, frame: Result<Frame, EncodeError>) {
        match frame {
            Ok(frame) => {
                // An overflow comes back as a signal.
                let _ = self.link.push(frame);
            }
            Err(error) => self.fault = self.fault.or(Some(error)),
        }
    }
}

impl Sink for LinkSink<'_> {
    fn reply(&mut self, reply: &Reply) {
        if let Some(error) = &reply.error {
            self.metrics.count_error(error.code);
        }
        let of_connect = reply.connect.iter().flat_map(|result| result.subs.values());
        for result in reply.subscribe.as_deref().into_iter().chain(of_connect) {
            if result.was_recovering {
                self.metrics.recoveries.count(result.recovered);
            }
        }
        self.push(Frame::reply(self.link.codec(), self.link.framing(), reply));
    }

    fn publication(&mut self, channel: &str, publication: &Publication) {
        let link = self.link;
        self.push(Frame::publication(
            link.codec(),
            link.framing(),
            channel,
            publication,
        ));
    }

    fn ping(&mut self) {
        self.push(Ok(Frame::ping(self.link.codec(), self.link.framing())));
    }

    fn native_ping(&mut self) {
        // An overflow comes back as a signal.
        let _ = self
            .link
            .push_raw(bytes::Bytes::from_static(frame::NATIVE_PING));
    }
}

//! A session of a node, on a wire that leads nowhere.

use std::{io, sync::Arc};

use parking_lot::Mutex;
use tidegate_protocol::{Codec, Framing};
use tidegate_realtime::{
    driver::{Budget, Driver, Turn},
    ids::AppId,
    link::Wire,
    node::PeerInfo,
    session::Pings,
};

use super::within;

/// Remembers what was written.
#[derive(Clone, Default)]
pub(crate) struct Paper(Arc<Mutex<Vec<u8>>>);

impl Paper {
    /// Everything sent so far; the heads of frames stand in it as what they are.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }
}

impl Wire for Paper {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
}

/// Somebody who speaks JSON over a WebSocket.
pub(crate) fn peer() -> PeerInfo {
    PeerInfo {
        app: AppId::default_app(),
        transport: "websocket",
        remote_addr: "127.0.0.1:1".into(),
        user: "".into(),
        headers: Vec::new().into(),
        codec: Codec::Json,
        framing: Framing::WebSocket,
        pings: Pings::Messages,
    }
}

/// Says a frame and waits until everything in it was carried out.
pub(crate) async fn say(driver: &mut Driver, frame: &str) -> Turn {
    let mut turn = driver.on_frame(frame.as_bytes(), &mut Budget::default());
    if turn == Turn::Wait {
        let answered =
            std::future::poll_fn(|context| driver.poll_answer(context, &mut Budget::default()));
        turn = within(answered).await;
    }
    driver.link().flush();
    turn
}

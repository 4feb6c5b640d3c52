//! A wire in memory, for the tests of links and hub: takes up to a given number of bytes, remembers them and
//! reads protocol messages back out of WebSocket frames.

use std::{io, sync::Arc};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Duration};

use crate::{
    hooks::Peer,
    ids::{AppId, ClientId},
    link::Wire,
};

/// FIN and the opcode of text.
const OP_TEXT: u8 = 0x81;

/// Somebody who has not said who they are.
pub(crate) fn peer() -> Arc<Peer> {
    Arc::new(Peer {
        app: AppId::default_app(),
        client: ClientId::random(),
        user: "".into(),
        transport: "websocket",
        name: "".into(),
        version: "".into(),
        remote_addr: "127.0.0.1".into(),
        headers: Vec::new().into(),
        meta: bytes::Bytes::new(),
        info: bytes::Bytes::new(),
    })
}

#[derive(Clone, Default)]
pub(crate) struct TestWire {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    writes: usize,
    /// Bytes accepted before the wire is full; `None` is no bound.
    room: Option<usize>,
    is_broken: bool,
}

impl TestWire {
    pub(crate) fn with_room(room: usize) -> Self {
        let wire = Self::default();
        wire.state.lock().room = Some(room);
        wire
    }

    pub(crate) fn set_room(&self, room: Option<usize>) {
        self.state.lock().room = room;
    }

    pub(crate) fn break_it(&self) {
        self.state.lock().is_broken = true;
    }

    pub(crate) fn num_writes(&self) -> usize {
        self.state.lock().writes
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.state.lock().bytes.clone()
    }

    /// The text messages received so far; joined ones are taken apart.
    pub(crate) fn messages(&self) -> Vec<String> {
        let mut messages = Vec::new();
        self.walk(|opcode, payload| {
            if opcode == OP_TEXT {
                let text = std::str::from_utf8(payload).unwrap();
                messages.extend(text.split('\n').map(str::to_owned));
            }
        });
        messages
    }

    /// Messages in each frame received so far; zero for a control frame.
    pub(crate) fn frame_sizes(&self) -> Vec<usize> {
        let mut sizes = Vec::new();
        self.walk(|opcode, payload| {
            let is_text = opcode == OP_TEXT;
            sizes.push(if is_text {
                payload.split(|byte| *byte == b'\n').count()
            } else {
                0
            });
        });
        sizes
    }

    fn walk(&self, mut visit: impl FnMut(u8, &[u8])) {
        let bytes = self.bytes();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (header, len) = match rest[1] {
                126 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
                127 => (10, usize::from_be_bytes(rest[2..10].try_into().unwrap())),
                len => (2, usize::from(len)),
            };
            visit(rest[0], &rest[header..header + len]);
            rest = &rest[header + len..];
        }
    }

    /// Waits until `is_it` holds for what was received.
    pub(crate) async fn until(&self, is_it: impl Fn(&[String]) -> bool) -> Vec<String> {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let messages = self.messages();
                if is_it(&messages) {
                    return messages;
                }
                changed.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .expect("the expected messages arrive in time")
    }
}

impl Wire for TestWire {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.state.lock();
        if state.is_broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = state.room.unwrap_or(usize::MAX).min(bytes.len());
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.bytes.extend_from_slice(&bytes[..taken]);
        state.writes += 1;
        if let Some(room) = &mut state.room {
            *room -= taken;
        }
        drop(state);
        self.changed.notify_waiters();
        Ok(taken)
    }
}

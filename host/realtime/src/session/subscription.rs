//! One subscription of a session: its seat in the channel, whose it is, and what few of them have.

use bytes::Bytes;
use tidegate_protocol::Raw;

use super::{asks::MadeBy, deadlines::Expiry};
use crate::{events::EventId, presence::Attendance};

#[derive(Debug)]
pub(super) struct Subscription<S> {
    pub(super) seat: S,
    pub(super) made_by: MadeBy,
    /// What few subscriptions have.
    pub(super) rare: Option<Box<Rare>>,
}

#[derive(Debug, Default)]
pub(super) struct Rare {
    pub(super) expiry: Option<Expiry>,
    /// Shown to others with this client's publications.
    pub(super) info: Raw,
    /// Dropped after the seat: a session does not hear of its own leave.
    pub(super) attendance: Option<Attendance>,
}

impl<S> Subscription<S> {
    /// Whether the connection ends with it; the client cannot unsubscribe it.
    pub(super) fn is_server_side(&self) -> bool {
        match self.made_by {
            MadeBy::Client => false,
            MadeBy::Identity | MadeBy::Request | MadeBy::Node => true,
        }
    }

    pub(super) fn expiry_mut(&mut self) -> Option<&mut Expiry> {
        self.rare.as_mut()?.expiry.as_mut()
    }

    /// The event of its end, where a survivor may have to tell of it.
    pub(super) fn end(&self) -> Option<EventId> {
        let attendance = self.rare.as_ref()?.attendance.as_ref();
        attendance.map(Attendance::end)
    }

    /// Shows others this of the session, where they see the subscription.
    pub(super) fn show(&mut self, conn_info: &Bytes) {
        if let Some(rare) = &mut self.rare
            && let Some(attendance) = &mut rare.attendance
        {
            attendance.show(conn_info, rare.info.as_bytes());
        }
    }
}

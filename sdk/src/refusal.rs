//! Saying no.

use std::fmt;

/// A refusal with its default code: error 103 *permission denied*, or the hook's usual disconnect.
const DEFAULT_CODE: u32 = 0;

/// Reasons of disconnects travel in a WebSocket close frame, which holds so many bytes.
const MAX_DISCONNECT_REASON_BYTES: usize = 123;

/// A hook's deliberate no: what the client is told.
///
/// Every hook answers `Result<Verdict, Refusal>`, so that `?` refuses.
///
/// ```
/// use tidegate_sdk::Refusal;
///
/// let no = Refusal::denied("only operators write here");
/// assert_eq!(no.reason(), "only operators write here");
/// let full = Refusal::error(429, "the room is full");
/// assert_eq!(full.code(), Some(429));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a refusal counts only when the hook returns it"]
pub struct Refusal {
    kind: RefusalKind,
    /// In the kind's range, or `DEFAULT_CODE`.
    code: u32,
    reason: String,
}

/// How a refusal ends the client's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// With an error reply; the connection stays open.
    Error,
    /// With the end of the connection.
    Disconnect,
}

impl Refusal {
    /// Refuses with error 103, *permission denied*, and a reason.
    pub fn denied(reason: impl Into<String>) -> Self {
        Self {
            kind: RefusalKind::Error,
            code: DEFAULT_CODE,
            reason: reason.into(),
        }
    }

    /// Refuses with an error code of the plugin's own, 400 to 1999, and a reason. Client libraries hand both to
    /// the application.
    ///
    /// # Panics
    ///
    /// When the code is out of range.
    #[track_caller]
    pub fn error(code: u32, reason: impl Into<String>) -> Self {
        assert!(
            (400..=1999).contains(&code),
            "error code {code} is not a plugin's; choose one from 400 to 1999, or use `Refusal::denied`"
        );
        Self {
            kind: RefusalKind::Error,
            code,
            reason: reason.into(),
        }
    }

    /// Closes the connection with the hook's usual code.
    pub fn expelled(reason: impl Into<String>) -> Self {
        Self {
            kind: RefusalKind::Disconnect,
            code: DEFAULT_CODE,
            reason: cut(reason.into()),
        }
    }

    /// Closes the connection with a code of the plugin's own. After 4000 to 4499 the client connects again, after
    /// 4500 to 4999 it does not. The reason is cut to 123 bytes.
    ///
    /// # Panics
    ///
    /// When the code is out of range.
    #[track_caller]
    pub fn disconnect(code: u32, reason: impl Into<String>) -> Self {
        assert!(
            (4000..=4999).contains(&code),
            "disconnect code {code} is not a plugin's; choose one from 4000 to 4999, or use `Refusal::expelled`"
        );
        Self {
            kind: RefusalKind::Disconnect,
            code,
            reason: cut(reason.into()),
        }
    }

    /// Whether the client gets an error or loses its connection.
    pub fn kind(&self) -> RefusalKind {
        self.kind
    }

    /// The code that the plugin chose, if it chose one.
    pub fn code(&self) -> Option<u32> {
        (self.code != DEFAULT_CODE).then_some(self.code)
    }

    /// What the client is told.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// For the contract's own records, of which every hook has one.
    pub(crate) fn into_parts(self) -> (RefusalKind, u32, String) {
        (self.kind, self.code, self.reason)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Refusal {}

fn cut(mut reason: String) -> String {
    if reason.len() > MAX_DISCONNECT_REASON_BYTES {
        let mut end = MAX_DISCONNECT_REASON_BYTES;
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disconnect_reasons_fit_a_close_frame() {
        let refusal = Refusal::disconnect(4500, "é".repeat(100));
        assert_eq!(refusal.reason().len(), 122);
        assert_eq!(refusal.kind(), RefusalKind::Disconnect);
    }

    #[test]
    fn codes_of_the_protocol_cannot_be_chosen() {
        for code in [0, 103, 399, 2000, 3500] {
            let error = std::panic::catch_unwind(|| Refusal::error(code, ""));
            assert!(error.is_err(), "error {code} was taken");
        }
        for code in [0, 3000, 3999, 5000] {
            let disconnect = std::panic::catch_unwind(|| Refusal::disconnect(code, ""));
            assert!(disconnect.is_err(), "disconnect {code} was taken");
        }
    }
}

//! What a reply to a client says.

use tidegate_protocol::Reply;

/// A publish was accepted.
///
/// # Panics
/// When it was not, with the reply.
#[track_caller]
pub fn accepted(reply: &Reply) {
    assert!(reply.publish.is_some(), "{reply:?}");
}

/// Code and reason of a refused command.
///
/// # Panics
/// When it was not refused, with the reply.
#[track_caller]
pub fn error(reply: &Reply) -> (u32, &str) {
    let error = reply
        .error
        .as_ref()
        .unwrap_or_else(|| panic!("not refused: {reply:?}"));
    (error.code, &error.message)
}

//! `sessions`: connections to end and subscriptions to take away, queued and done after the call succeeded.

use std::sync::Arc;

use tidegate_realtime::{
    hooks::{Effect, SessionTarget},
    ids::ClientId,
};

use super::{MAX_EFFECTS, USER_BYTES, check_channel};
use crate::{
    convert::DISCONNECT_REASON_BYTES,
    generated::tidegate::plugin::sessions::{Host, SessionsError, Target},
    guest::GuestState,
};

/// What code 0 stands for: the client does not come back.
const USUAL_CODE: u32 = 4_500;
const USUAL_REASON: &str = "disconnected";

impl Host for GuestState {
    fn disconnect(
        &mut self,
        target: Target,
        code: u32,
        reason: String,
    ) -> wasmtime::Result<Result<(), SessionsError>> {
        self.call.enter_host()?;
        let effect = checked(target).and_then(|target| {
            let (code, reason) = checked_disconnect(code, reason)?;
            Ok(Effect::Disconnect {
                target,
                code,
                reason,
            })
        });
        Ok(effect.and_then(|effect| self.queue_for_sessions(effect)))
    }

    fn unsubscribe(
        &mut self,
        target: Target,
        channel: String,
    ) -> wasmtime::Result<Result<(), SessionsError>> {
        self.call.enter_host()?;
        let max_channel_bytes = self.unit.common.max_channel_bytes;
        let effect = checked(target).and_then(|target| {
            check_channel(&channel, max_channel_bytes).map_err(SessionsError::Invalid)?;
            Ok(Effect::Unsubscribe {
                target,
                channel: channel.into(),
            })
        });
        Ok(effect.and_then(|effect| self.queue_for_sessions(effect)))
    }
}

impl GuestState {
    fn queue_for_sessions(&mut self, effect: Effect) -> Result<(), SessionsError> {
        if self.call.queued.len() >= MAX_EFFECTS {
            return Err(SessionsError::Limit(format!(
                "{MAX_EFFECTS} effects are queued already"
            )));
        }
        self.call.queued.push(effect);
        Ok(())
    }
}

fn checked(target: Target) -> Result<SessionTarget, SessionsError> {
    match target {
        Target::User(user) if user.is_empty() || user.len() > USER_BYTES => Err(
            SessionsError::Invalid(format!("a user id has 1 to {USER_BYTES} bytes")),
        ),
        Target::User(user) => Ok(SessionTarget::User(user.into())),
        Target::Client(client) => ClientId::parse(&client)
            .map(SessionTarget::Client)
            .ok_or_else(|| {
                SessionsError::Invalid("a session is named by its client id".to_owned())
            }),
    }
}

/// The ranges are those of a refusal.
fn checked_disconnect(code: u32, reason: String) -> Result<(u32, Arc<str>), SessionsError> {
    let code = match code {
        0 => USUAL_CODE,
        4_000..=4_999 => code,
        _ => {
            return Err(SessionsError::Invalid(format!(
                "disconnect code {code} is not 0 or 4000 to 4999"
            )));
        }
    };
    if reason.len() > DISCONNECT_REASON_BYTES {
        return Err(SessionsError::Invalid(format!(
            "a disconnect's reason has at most {DISCONNECT_REASON_BYTES} bytes"
        )));
    }
    let reason = if reason.is_empty() {
        USUAL_REASON.into()
    } else {
        reason.into()
    };
    Ok((code, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w7_codes_and_reasons_are_those_of_a_refusal() {
        let check = |code, len: usize| {
            let checked = checked_disconnect(code, "x".repeat(len));
            checked.map(|(code, reason)| (code, reason.len())).ok()
        };
        assert_eq!(check(0, 0), Some((4_500, USUAL_REASON.len())));
        assert_eq!(check(4_000, 123), Some((4_000, 123)));
        assert_eq!(check(4_999, 1), Some((4_999, 1)));
        for code in [1, 103, 3_000, 3_999, 5_000, u32::MAX] {
            assert_eq!(check(code, 1), None, "{code}");
        }
        assert_eq!(check(4_000, 124), None);
    }

    #[test]
    fn w7_nobody_and_everybody_are_no_target() {
        assert!(checked(Target::User(String::new())).is_err());
        assert!(checked(Target::User("u".repeat(USER_BYTES + 1))).is_err());
        assert!(checked(Target::User("ann".to_owned())).is_ok());
        assert!(checked(Target::Client("ann".to_owned())).is_err());
        assert!(checked(Target::Client(ClientId::random().to_string())).is_ok());
    }
}

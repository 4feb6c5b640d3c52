//! `filtering`: what may be said, and in which form.

use serde::Serialize;

use crate::{
    JsonError, Message, Refusal, bindings::filtering::exports::tidegate::plugin::filtering as wit,
    panics,
};

/// Asked for every message before it reaches the channel: published by a client, by the server API or by another
/// plugin.
///
/// Plugins are asked in order, and each sees what the one before made of the message. This is the hottest hook:
/// it has 5 ms, and should take a few microseconds.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tidegate_sdk::{Filtering, Message, Refusal, filtering::Verdict, plugin, testing::Host};
///
/// /// Keeps messages short and puts them in capitals.
/// struct Shout;
///
/// #[derive(Serialize, Deserialize)]
/// struct Line {
///     text: String,
/// }
///
/// impl Filtering for Shout {
///     fn filter(message: Message) -> Result<Verdict, Refusal> {
///         let mut line: Line = message.json()?;
///         if line.text.len() > 100 {
///             return Err(Refusal::error(413, "at most 100 bytes of text"));
///         }
///         line.text.make_ascii_uppercase();
///         Verdict::json(&line)
///     }
/// }
///
/// plugin!(Shout: filtering);
///
/// let mut host = Host::new();
/// let verdict = host.filter::<Shout>("room", r#"{"text":"hi"}"#).unwrap();
/// assert_eq!(verdict, Verdict::Replace(br#"{"text":"HI"}"#.to_vec()));
/// assert_eq!(host.filter::<Shout>("room", "[]").unwrap_err().code(), Some(400));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is listed with the hook `filtering` but does not implement `Filtering`",
    label = "needs `impl tidegate_sdk::Filtering for {Self}`",
    note = "write `fn filter(message: Message) -> Result<filtering::Verdict, Refusal>` in it, or take `filtering` out of `plugin!`"
)]
pub trait Filtering {
    /// Decides on one message.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] ends the message here, and its sender is told why.
    fn filter(message: Message) -> Result<Verdict, Refusal>;
}

/// What becomes of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on as it is (or as its tags and options were changed).
    Pass,
    /// It goes on with this data, which must be JSON wherever JSON clients will read it.
    Replace(Vec<u8>),
    /// It ends here; its sender is told that it was published.
    Drop,
}

impl Verdict {
    /// The message goes on with `value` as its JSON data.
    ///
    /// # Errors
    ///
    /// When `value` cannot be written as JSON, such as a map whose keys are not text.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, Refusal> {
        Ok(Self::Replace(JsonError::print("the new data", value)?))
    }
}

impl<P: Filtering> wit::Guest for P {
    fn filter(channel: String, user: String, data: Vec<u8>) -> wit::Verdict {
        panics::report();
        match P::filter(Message::new(channel, user, data)) {
            Ok(Verdict::Pass) => wit::Verdict::Pass,
            Ok(Verdict::Replace(data)) => wit::Verdict::Replace(data),
            Ok(Verdict::Drop) => wit::Verdict::Drop,
            Err(refusal) => wit::Verdict::Refuse(refusal.into()),
        }
    }
}

refusal_record!(wit);

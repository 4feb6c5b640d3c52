//! Settings that are tried when they are bound.
//!
//! A plugin reads its settings at its first call, and calls fail where they cannot be used. One that implements
//! [`Configured`] and names `settings` in [`plugin!`](crate::plugin) has them tried before: the server refuses to bind
//! what the plugin cannot use, and whoever binds reads why.

use serde::de::DeserializeOwned;

use crate::{
    bindings::settings::exports::tidegate::plugin::settings as wit, config::BadSetting, panics,
};

/// Says whether settings can be used, when they are bound.
///
/// ```
/// use serde::Deserialize;
/// use tidegate_sdk::{
///     Configured, Filtering, Message, Refusal, config::{self, BadSetting}, filtering::Verdict, plugin,
///     settings::Offered, testing::Host,
/// };
///
/// #[derive(Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Limits {
///     max_bytes: usize,
/// }
///
/// struct Short;
///
/// impl Configured for Short {
///     fn check(offered: Offered) -> Result<(), BadSetting> {
///         offered.read::<Limits>().map(drop)
///     }
/// }
///
/// impl Filtering for Short {
///     fn filter(message: Message) -> Result<Verdict, Refusal> {
///         let limits = config::settings::<Limits>();
///         if message.data().len() > limits.max_bytes {
///             return Err(Refusal::error(413, "the message is too long"));
///         }
///         Ok(Verdict::Pass)
///     }
/// }
///
/// plugin!(Short: filtering, settings);
///
/// let host = Host::new().config(serde_json::json!({ "max_byte": 4 }));
/// let error = host.check_settings::<Short>("filtering").unwrap_err();
/// assert!(error.to_string().starts_with("unknown field `max_byte`, expected `max_bytes`"));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is listed with `settings` but does not implement `Configured`",
    label = "needs `impl tidegate_sdk::Configured for {Self}`",
    note = "write `fn check(offered: settings::Offered) -> Result<(), config::BadSetting>` in it, or take `settings` out of `plugin!`"
)]
pub trait Configured {
    /// Reads the settings as calls do. Nothing of the node but [`log`](crate::log) may be used here, and the node waits
    /// 50 ms.
    ///
    /// # Errors
    ///
    /// [`BadSetting`] says what is wrong and what to write instead; the node does not bind it.
    fn check(offered: Offered) -> Result<(), BadSetting>;
}

/// Settings that somebody wants to bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    hook: String,
    text: String,
}

impl Offered {
    pub(crate) fn new(hook: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            hook: hook.into(),
            text: text.into(),
        }
    }

    /// The hook that the plugin would be bound to: `filtering`, ….
    pub fn hook(&self) -> &str {
        &self.hook
    }

    /// The settings as JSON text; `{}` when none were given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The settings as calls read them with [`config::settings`](crate::config::settings).
    ///
    /// # Errors
    ///
    /// When they are not a `T`. The text of the error names the place.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, BadSetting> {
        serde_json::from_str(&self.text).map_err(|error| BadSetting::new(error.to_string()))
    }
}

impl<P: Configured> wit::Guest for P {
    fn check(hook: String, settings: String) -> Result<(), String> {
        panics::report();
        P::check(Offered::new(hook, settings)).map_err(|error| error.to_string())
    }
}

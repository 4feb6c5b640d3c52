//! The calls: one function a hook, each that of a new instance.

use super::Host;
use crate::{
    Authentication, Authorization, Configured, Events, Filtering, Message, Refusal, Routing, Rpc,
    Schedule, Trouble, authentication, authorization,
    config::{self, BadSetting},
    context::Origin,
    events::Event,
    filtering, host, routing, rpc, schedule,
    settings::Offered,
};

/// The hooks.
impl Host {
    /// Tries the settings as the node does when the plugin is bound to a hook.
    ///
    /// # Errors
    ///
    /// What is wrong with them; the node would not bind them.
    pub fn check_settings<P: Configured>(&self, hook: &str) -> Result<(), BadSetting> {
        let settings = self.state.facts.config.as_deref().unwrap_or("{}");
        P::check(Offered::new(hook, settings))
    }

    /// Connects a client.
    ///
    /// # Errors
    ///
    /// What the plugin refuses with.
    pub fn authenticate<P: Authentication>(
        &mut self,
        token: &str,
        data: impl AsRef<[u8]>,
    ) -> Result<authentication::Verdict, Refusal> {
        let request = authentication::Request::new(
            authentication::Reason::Connect,
            token.to_owned(),
            data.as_ref().to_vec(),
        );
        self.run(false, data.as_ref(), || P::authenticate(request))
    }

    /// Asks for a new identity of the host's user before the old one expires. The node keeps neither token nor data
    /// of the connect command.
    ///
    /// # Errors
    ///
    /// What the plugin refuses with.
    pub fn reauthenticate<P: Authentication>(
        &mut self,
    ) -> Result<authentication::Verdict, Refusal> {
        let reason = authentication::Reason::Refresh;
        let request = authentication::Request::new(reason, String::new(), Vec::new());
        self.run(false, &[], || P::authenticate(request))
    }

    /// Subscribes the client to a channel.
    ///
    /// # Errors
    ///
    /// What the plugin refuses with.
    pub fn authorize<P: Authorization>(
        &mut self,
        channel: &str,
        data: impl AsRef<[u8]>,
    ) -> Result<authorization::Verdict, Refusal> {
        self.ask_authorization::<P>(authorization::Reason::Subscribe, channel, data.as_ref())
    }

    /// Asks for a new grant before the old one expires. The node does not keep the data of the subscribe command.
    ///
    /// # Errors
    ///
    /// What the plugin refuses with.
    pub fn reauthorize<P: Authorization>(
        &mut self,
        channel: &str,
    ) -> Result<authorization::Verdict, Refusal> {
        self.ask_authorization::<P>(authorization::Reason::Refresh, channel, &[])
    }

    /// Publishes `data` to a channel as the host's user.
    ///
    /// # Errors
    ///
    /// What the plugin refuses with.
    pub fn filter<P: Filtering>(
        &mut self,
        channel: &str,
        data: impl AsRef<[u8]>,
    ) -> Result<filtering::Verdict, Refusal> {
        let message = self.message(channel, data.as_ref());
        self.run(true, data.as_ref(), || P::filter(message))
    }

    /// Publishes `data` to a channel as the host's user, behind the filters.
    ///
    /// # Errors
    ///
    /// What the plugin refuses with.
    pub fn route<P: Routing>(
        &mut self,
        channel: &str,
        data: impl AsRef<[u8]>,
    ) -> Result<routing::Verdict, Refusal> {
        let message = self.message(channel, data.as_ref());
        self.run(true, data.as_ref(), || {
            let verdict = P::route(message)?;
            if let routing::Verdict::Routed(destinations) = &verdict {
                destinations.send();
            }
            Ok(verdict)
        })
    }

    /// Calls a method as the host's user.
    ///
    /// # Errors
    ///
    /// What the plugin refuses with.
    pub fn call<P: Rpc>(
        &mut self,
        method: &str,
        data: impl AsRef<[u8]>,
    ) -> Result<rpc::Verdict, Refusal> {
        let user = self.user_of_call();
        let request = rpc::Request::new(method.to_owned(), user, data.as_ref().to_vec());
        self.run(false, data.as_ref(), || P::call(request))
    }

    /// Tells of events.
    ///
    /// # Errors
    ///
    /// Why the plugin cannot deal with them; then nothing that it queued takes place.
    pub fn handle<P: Events>(&mut self, batch: Vec<Event>) -> Result<(), Trouble> {
        self.run_alone(|| P::handle(batch))
    }

    /// Runs a period of the plugin's, due at the host's time.
    ///
    /// # Errors
    ///
    /// Why the plugin could not do it; then nothing that it queued takes place.
    ///
    /// # Panics
    ///
    /// When the plugin has no period of that name.
    #[track_caller]
    pub fn run_period<P: Schedule>(&mut self, period: &str) -> Result<(), Trouble> {
        let found = P::PERIODS.iter().find(|known| known.name() == period);
        let period = found.unwrap_or_else(|| panic!("the plugin has no period `{period}`"));
        let every = u64::try_from(period.every().as_millis()).unwrap_or(u64::MAX);
        let due_ms = self.state.facts.now_ms / every.max(1) * every;
        let run = schedule::Run::new(period.name().to_owned(), due_ms);
        self.run_alone(|| P::run(run))
    }

    fn ask_authorization<P: Authorization>(
        &mut self,
        reason: authorization::Reason,
        channel: &str,
        data: &[u8],
    ) -> Result<authorization::Verdict, Refusal> {
        let user = self.user_of_call();
        let request = authorization::Request::new(reason, channel.to_owned(), user, data.to_vec());
        self.run(false, data, || P::authorize(request))
    }

    fn message(&self, channel: &str, data: &[u8]) -> Message {
        Message::new(channel.to_owned(), self.user_of_call(), data.to_vec())
    }

    /// The server API and plugins publish as nobody.
    fn user_of_call(&self) -> String {
        match self.state.facts.origin {
            None | Some(Origin::Client) => self.state.facts.user.clone(),
            Some(Origin::ServerApi | Origin::Plugin) => String::new(),
        }
    }

    /// Makes a call that no client has a part in.
    fn run_alone(&mut self, call: impl FnOnce() -> Result<(), Trouble>) -> Result<(), Trouble> {
        let before = self.state.facts.origin.replace(Origin::Plugin);
        let answer = self.run(false, &[], call);
        self.state.facts.origin = before;
        answer
    }

    fn run<V, E>(
        &mut self,
        has_message: bool,
        data: &[u8],
        call: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, E> {
        config::forget();
        let mut state = self.state.clone();
        state.effects = host::Effects {
            tags: state.facts.tags.clone(),
            ..host::Effects::default()
        };
        state.has_message = has_message;
        state.data = data.to_vec();
        state.keys.operations = 0;
        state.stored.operations = 0;
        let (answer, state) = host::scope(state, call);
        self.state = state;
        if answer.is_err() {
            // A refused message goes nowhere, and what its call queued is not made.
            let log = std::mem::take(&mut self.state.effects.log);
            self.state.effects = host::Effects {
                log,
                ..host::Effects::default()
            };
        }
        answer
    }
}

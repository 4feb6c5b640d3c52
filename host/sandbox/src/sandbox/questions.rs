//! Questions, each in its lane.

use std::sync::Arc;

use tidegate_realtime::{
    hooks::{
        Answered, AuthenticationQuestion, AuthenticationVerdict, AuthorizationQuestion,
        AuthorizationVerdict, Draft, EventsQuestion, FilteringVerdict, HookFailure, Hooks, Outcome,
        Progress, RoutingVerdict, RpcQuestion, RpcVerdict, ScheduleQuestion, Watch,
    },
    ids::AppId,
};

use super::Sandbox;
use crate::{
    binding::Hook,
    lane::{LINE, Turn, Waiters},
    pipeline::{Asker, Ran, Unasked},
    unit::Unit,
};

/// Questions, each in its lane.
impl Sandbox {
    /// Asks on a plugin thread, or on one where plugins wait if there are `waiters`.
    fn ask_aside<V: Send + 'static>(
        &self,
        unasked: Unasked,
        waiters: impl Fn(Asker<'_>) -> Waiters + Send + 'static,
        question: impl FnOnce(Asker<'_>) -> Result<Outcome<V>, HookFailure> + Send + 'static,
    ) -> Answered<V> {
        let unasked = Arc::new(unasked);
        let (core, lost) = (Arc::clone(&self.core), Arc::clone(&unasked));
        let runtime = Arc::clone(&self.core.runtime);
        let classifier = Arc::clone(&self.core);
        self.aside.ask(
            &unasked.app,
            move || classifier.ask(Turn::Inline, &waiters),
            move |turn| core.ask(turn, question),
            || {
                let detail = format!(
                    "{LINE} calls of the app wait for a plugin thread already, or {} that ask one plugin that waits; \
                     its plugins are slower than its traffic",
                    LINE / 2
                );
                HookFailure::overload(unasked.tell(&self.core.runtime, &detail))
            },
            move || HookFailure::new(lost.tell(&runtime, "the node stopped, or gave way, before the call's turn came")),
        )
    }

    /// Calls a plugin that nobody waits for.
    fn call_on_duty(
        &self,
        (app, hook): (AppId, Hook),
        plugin: &str,
        call: impl FnOnce(Asker<'_>) -> Result<Outcome<()>, HookFailure> + Send + 'static,
    ) -> Answered<()> {
        let first = self.core.ask(Turn::Inline, |asker| {
            asker.on_duty(&app, hook, plugin).cloned()
        });
        if self.is_answered_at_once(first.as_ref()) {
            return Progress::Ready(self.core.ask(Turn::Inline, call));
        }
        let (place, name) = (app.clone(), Box::<str>::from(plugin));
        let waiters = move |asker: Asker<'_>| Asker::waiters(asker.on_duty(&place, hook, &name));
        let unasked = Unasked {
            app,
            hook,
            subject: Arc::clone(self.core.runtime.no_subject()),
            first,
        };
        self.ask_aside(unasked, waiters, call)
    }

    /// Whether an answer is there without asking a plugin: nobody is bound, or the first one's breaker is open.
    fn is_answered_at_once(&self, first: Option<&Arc<Unit>>) -> bool {
        first.is_none_or(|unit| unit.conduct.is_shut(&self.core.runtime))
    }

    #[cold]
    fn filter_elsewhere(&self, draft: Box<Draft>) -> Answered<FilteringVerdict> {
        let draft = match self.overflow(draft, |asker, draft| asker.filter(draft)) {
            Ok(answer) => return Progress::Ready(answer),
            Err(draft) => draft,
        };
        let first = self
            .core
            .ask(Turn::Inline, |asker| asker.filters(&draft).first().cloned());
        let unasked = unasked(&draft, Hook::Filtering, first);
        self.ask_aside(unasked, never_waits, |asker| {
            asker
                .filter(draft)
                .unwrap_or_else(|draft| asker.cannot_ask(&draft, Hook::Filtering))
        })
    }

    #[cold]
    fn route_elsewhere(&self, draft: Box<Draft>) -> Answered<RoutingVerdict> {
        let draft = match self.overflow(draft, |asker, draft| asker.route(draft)) {
            Ok(answer) => return Progress::Ready(answer),
            Err(draft) => draft,
        };
        let first = self
            .core
            .ask(Turn::Inline, |asker| asker.routers(&draft).first().cloned());
        let unasked = unasked(&draft, Hook::Routing, first);
        self.ask_aside(unasked, never_waits, |asker| {
            asker
                .route(draft)
                .unwrap_or_else(|draft| asker.cannot_ask(&draft, Hook::Routing))
        })
    }

    /// Asks inline what should go aside, if the lane there is crowded and what is known of the versions is good.
    fn overflow<V>(
        &self,
        draft: Box<Draft>,
        ask: impl FnOnce(Asker<'_>, Box<Draft>) -> Ran<V>,
    ) -> Ran<V> {
        if !self.aside.is_crowded(&draft.app) {
            return Err(draft);
        }
        self.core.ask(Turn::Overflow, |asker| ask(asker, draft))
    }
}

/// Of the hooks where messages pass.
fn never_waits(_: Asker<'_>) -> Waiters {
    Waiters::new()
}

fn unasked(draft: &Draft, hook: Hook, first: Option<Arc<Unit>>) -> Unasked {
    Unasked {
        app: draft.app.clone(),
        hook,
        subject: Arc::clone(&draft.channel),
        first,
    }
}

impl Hooks for Sandbox {
    fn authenticate(&self, question: AuthenticationQuestion) -> Answered<AuthenticationVerdict> {
        let app = question.peer.app.clone();
        let first = self.core.ask(Turn::Inline, |asker| {
            asker.authenticators(&app).first().cloned()
        });
        if self.is_answered_at_once(first.as_ref()) {
            return Progress::Ready(
                self.core
                    .ask(Turn::Inline, |asker| asker.authenticate(question)),
            );
        }
        let place = app.clone();
        let waiters = move |asker: Asker<'_>| Asker::waiters(asker.authenticators(&place));
        let unasked = Unasked {
            app,
            hook: Hook::Authentication,
            subject: Arc::clone(self.core.runtime.no_subject()),
            first,
        };
        self.ask_aside(unasked, waiters, |asker| asker.authenticate(question))
    }

    fn authorize(&self, question: AuthorizationQuestion) -> Answered<AuthorizationVerdict> {
        let (app, subject) = (question.peer.app.clone(), Arc::clone(&question.channel));
        let first = self.core.ask(Turn::Inline, |asker| {
            asker.authorizers(&app, &subject).first().cloned()
        });
        if self.is_answered_at_once(first.as_ref()) {
            return Progress::Ready(
                self.core
                    .ask(Turn::Inline, |asker| asker.authorize(question)),
            );
        }
        let (place, channel) = (app.clone(), Arc::clone(&subject));
        let waiters = move |asker: Asker<'_>| Asker::waiters(asker.authorizers(&place, &channel));
        let unasked = Unasked {
            app,
            hook: Hook::Authorization,
            subject,
            first,
        };
        self.ask_aside(unasked, waiters, |asker| asker.authorize(question))
    }

    #[inline]
    fn filter(&self, draft: Box<Draft>) -> Answered<FilteringVerdict> {
        match self.core.ask(Turn::Inline, |asker| asker.filter(draft)) {
            Ok(answer) => Progress::Ready(answer),
            Err(draft) => self.filter_elsewhere(draft),
        }
    }

    fn route(&self, draft: Box<Draft>) -> Answered<RoutingVerdict> {
        match self.core.ask(Turn::Inline, |asker| asker.route(draft)) {
            Ok(answer) => Progress::Ready(answer),
            Err(draft) => self.route_elsewhere(draft),
        }
    }

    fn rpc(&self, question: RpcQuestion) -> Answered<RpcVerdict> {
        let (app, subject) = (question.peer.app.clone(), Arc::clone(&question.method));
        let first = self.core.ask(Turn::Inline, |asker| {
            asker.responders(&app, &subject).next().cloned()
        });
        if self.is_answered_at_once(first.as_ref()) {
            return Progress::Ready(self.core.ask(Turn::Inline, |asker| asker.rpc(question)));
        }
        let (place, method) = (app.clone(), Arc::clone(&subject));
        let waiters = move |asker: Asker<'_>| Asker::waiters(asker.responders(&place, &method));
        let unasked = Unasked {
            app,
            hook: Hook::Rpc,
            subject,
            first,
        };
        self.ask_aside(unasked, waiters, |asker| asker.rpc(question))
    }

    fn has_rpc(&self, app: &AppId) -> bool {
        self.core.ask(Turn::Inline, |asker| {
            let app = asker.snapshot.apps.get(app);
            app.is_some_and(|app| !app.rpc.is_empty())
        })
    }

    fn has_authorization(&self, app: &AppId, channel: &str) -> bool {
        self.core
            .ask(Turn::Inline, |asker| asker.has_authorization(app, channel))
    }

    fn events(&self, question: EventsQuestion) -> Answered<()> {
        let place = (question.app.clone(), Hook::Events);
        let plugin = Arc::clone(&question.plugin);
        self.call_on_duty(place, &plugin, move |asker| asker.tell(question))
    }

    fn scheduled(&self, question: ScheduleQuestion) -> Answered<()> {
        let place = (question.app.clone(), Hook::Schedule);
        let plugin = Arc::clone(&question.plugin);
        self.call_on_duty(place, &plugin, move |asker| asker.run(question))
    }

    fn watch_duties(&self, watch: Arc<dyn Watch>) {
        let units = self.units.lock();
        if self.watch.set(watch).is_ok() {
            self.tell_duties(&units);
        }
    }
}

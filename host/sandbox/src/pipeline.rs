//! Who is asked, in which order, and how their answers become one.
//!
//! Authentication, authorization and rpc: the first definite answer wins. Filtering: each sees what the one
//! before made of the message; the first drop or refusal ends it. Routing: the last one that did not keep
//! decides. One failure fails the whole question, unless an open policy lets filtering go on. Effects of a
//! question that failed or was refused are discarded.

use std::{mem, sync::Arc};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tidegate_realtime::{
    hooks::{
        AuthenticationQuestion, AuthenticationVerdict, AuthorizationQuestion, AuthorizationVerdict,
        Draft, Effect, FilteringVerdict, HookFailure, Origin, Outcome, Refusal, RoutingVerdict,
        RpcQuestion, RpcVerdict,
    },
    ids::AppId,
};
use wasmtime::Store;

use crate::{
    Runtime,
    binding::{FailurePolicy, Hook, Scope},
    call::{Called, call},
    capabilities::log::LogTail,
    convert::{self, DISCONNECT_REASON_BYTES, FilterAnswer, RouteAnswer},
    failure::{Failure, FailureKind},
    guest::{CallState, Destinations, Facts, GuestState},
    instance::Export,
    metrics::CallEnd,
    slots,
    stories::{StepEnd, Story, StoryStep, new_trace_id},
    unit::Unit,
};

/// Units of a pipeline in the order they are asked.
pub(crate) type Units = Box<[Arc<Unit>]>;

/// What is bound, for all apps; swapped whole.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) apps: FxHashMap<AppId, AppPipelines>,
}

/// The pipelines of one app.
#[derive(Debug, Default)]
pub(crate) struct AppPipelines {
    pub(crate) authentication: Units,
    pub(crate) authorization: Scoped,
    pub(crate) filtering: Scoped,
    pub(crate) routing: Scoped,
    /// All of them; which are asked depends on the method.
    pub(crate) rpc: Units,
}

/// A pipeline that depends on the channel's namespace.
#[derive(Debug, Default)]
pub(crate) struct Scoped {
    /// For channels of namespaces that nothing is bound to.
    pub(crate) elsewhere: Units,
    /// App-wide and own bindings merged, by namespace.
    pub(crate) namespaces: FxHashMap<Box<str>, Units>,
}

/// How channel names show their namespace.
#[derive(Debug, Clone)]
pub(crate) struct Naming {
    pub(crate) private_prefix: Box<str>,
    pub(crate) namespace_boundary: Box<str>,
}

impl Naming {
    fn namespace<'a>(&self, channel: &'a str) -> Option<&'a str> {
        let public = match &*self.private_prefix {
            "" => channel,
            prefix => channel.strip_prefix(prefix).unwrap_or(channel),
        };
        match &*self.namespace_boundary {
            "" => None,
            boundary => public.split_once(boundary).map(|(namespace, _)| namespace),
        }
    }
}

impl Scoped {
    #[inline]
    fn units(&self, channel: &str, naming: &Naming) -> &[Arc<Unit>] {
        if self.namespaces.is_empty() {
            return &self.elsewhere;
        }
        naming
            .namespace(channel)
            .and_then(|namespace| self.namespaces.get(namespace))
            .unwrap_or(&self.elsewhere)
    }
}

/// What answering needs besides the question.
#[derive(Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) snapshot: &'a Snapshot,
}

type Answer<V> = Result<Outcome<V>, HookFailure>;

fn without_effects<V>(verdict: V) -> Answer<V> {
    Ok(Outcome {
        verdict,
        effects: Vec::new(),
    })
}

impl<'a> Asker<'a> {
    fn question(self, app: &'a AppId, hook: Hook, subject: &'a Arc<str>) -> Question<'a> {
        Question {
            runtime: self.runtime,
            app,
            hook,
            subject,
            steps: SmallVec::new(),
            trace_id: None,
            effects: Vec::new(),
        }
    }

    pub(crate) fn authenticate(
        self,
        question: AuthenticationQuestion,
    ) -> Answer<AuthenticationVerdict> {
        let AuthenticationQuestion {
            reason,
            peer,
            token,
            token_check,
            data,
        } = question;
        let units = match self.snapshot.apps.get(&peer.app) {
            Some(app) => &*app.authentication,
            None => &[],
        };
        if units.is_empty() {
            return without_effects(AuthenticationVerdict::NotMine);
        }
        let reason = convert::authentication_reason(reason);
        let subject = self.runtime.no_subject();
        let mut question = self.question(&peer.app, Hook::Authentication, subject);
        for unit in units {
            let facts = Facts::Authentication {
                peer: Arc::clone(&peer),
                token_check: token_check.clone(),
            };
            let verdict = question.ask_closed(
                unit,
                facts,
                |store, export| {
                    let guest = export.authentication()?;
                    let verdict = guest.call_authenticate(store, reason, &token, &data)?;
                    Ok(convert::authentication(verdict, unit.common)?)
                },
                |verdict| match verdict {
                    AuthenticationVerdict::NotMine => "not-mine",
                    AuthenticationVerdict::Accept(_) => "accept",
                    AuthenticationVerdict::Refuse(_) => REFUSE,
                },
            )?;
            match verdict {
                AuthenticationVerdict::NotMine => {}
                AuthenticationVerdict::Accept(_) => return Ok(question.answered(verdict)),
                AuthenticationVerdict::Refuse(refusal) => {
                    let refusal = question.refused(unit, refusal);
                    return without_effects(AuthenticationVerdict::Refuse(refusal));
                }
            }
        }
        Ok(question.answered(AuthenticationVerdict::NotMine))
    }

    /// Whether anybody would be asked by [`Self::authorize`].
    pub(crate) fn has_authorization(self, app: &AppId, channel: &str) -> bool {
        let app = self.snapshot.apps.get(app);
        app.is_some_and(|app| {
            let units = app.authorization.units(channel, &self.runtime.naming);
            !units.is_empty()
        })
    }

    pub(crate) fn authorize(self, question: AuthorizationQuestion) -> Answer<AuthorizationVerdict> {
        let AuthorizationQuestion {
            reason,
            peer,
            channel,
            data,
        } = question;
        let units = match self.snapshot.apps.get(&peer.app) {
            Some(app) => app.authorization.units(&channel, &self.runtime.naming),
            None => &[],
        };
        if units.is_empty() {
            return without_effects(AuthorizationVerdict::NotMine);
        }
        let reason = convert::authorization_reason(reason);
        let mut question = self.question(&peer.app, Hook::Authorization, &channel);
        for unit in units {
            let facts = Facts::Session {
                peer: Arc::clone(&peer),
            };
            let verdict = question.ask_closed(
                unit,
                facts,
                |store, export| {
                    let guest = export.authorization()?;
                    let verdict =
                        guest.call_authorize(store, reason, &channel, &peer.user, &data)?;
                    Ok(convert::authorization(verdict, unit.common)?)
                },
                |verdict| match verdict {
                    AuthorizationVerdict::NotMine => "not-mine",
                    AuthorizationVerdict::Allow(_) => "allow",
                    AuthorizationVerdict::Refuse(_) => REFUSE,
                },
            )?;
            match verdict {
                AuthorizationVerdict::NotMine => {}
                AuthorizationVerdict::Allow(_) => return Ok(question.answered(verdict)),
                AuthorizationVerdict::Refuse(refusal) => {
                    let refusal = question.refused(unit, refusal);
                    return without_effects(AuthorizationVerdict::Refuse(refusal));
                }
            }
        }
        Ok(question.answered(AuthorizationVerdict::NotMine))
    }

    pub(crate) fn rpc(self, question: RpcQuestion) -> Answer<RpcVerdict> {
        let RpcQuestion { peer, method, data } = question;
        let Some(app) = self.snapshot.apps.get(&peer.app) else {
            return without_effects(RpcVerdict::NotMine);
        };
        let mut question = self.question(&peer.app, Hook::Rpc, &method);
        for unit in app.rpc.iter().filter(|unit| unit.covers(&method)) {
            let facts = Facts::Session {
                peer: Arc::clone(&peer),
            };
            let verdict = question.ask_closed(
                unit,
                facts,
                |store, export| {
                    let guest = export.rpc()?;
                    let verdict = guest.call_call(store, &method, &peer.user, &data)?;
                    Ok(convert::rpc(verdict, &data, unit.common)?)
                },
                |verdict| match verdict {
                    RpcVerdict::NotMine => "not-mine",
                    RpcVerdict::Reply(_) => "reply",
                    RpcVerdict::Refuse(_) => REFUSE,
                },
            )?;
            match verdict {
                RpcVerdict::NotMine => {}
                RpcVerdict::Reply(_) => return Ok(question.answered(verdict)),
                RpcVerdict::Refuse(refusal) => {
                    let refusal = question.refused(unit, refusal);
                    return without_effects(RpcVerdict::Refuse(refusal));
                }
            }
        }
        Ok(question.answered(RpcVerdict::NotMine))
    }

    #[inline]
    pub(crate) fn filter(self, mut draft: Box<Draft>) -> Answer<FilteringVerdict> {
        let Some(app) = self.snapshot.apps.get(&draft.app) else {
            return without_effects(FilteringVerdict::Pass(draft));
        };
        let units = app.filtering.units(&draft.channel, &self.runtime.naming);
        if units.is_empty() {
            return without_effects(FilteringVerdict::Pass(draft));
        }
        let (app, channel) = (draft.app.clone(), Arc::clone(&draft.channel));
        let mut question = self.question(&app, Hook::Filtering, &channel);
        for unit in units {
            let facts = Facts::message(&mut draft, Destinations::Fixed);
            let mut called = question.call(
                unit,
                facts,
                |store, export| {
                    let guest = export.filtering()?;
                    let user = user(&draft.origin);
                    let verdict = guest.call_filter(store, &draft.channel, user, &draft.data)?;
                    Ok(convert::filtering(verdict, &draft.data, unit.common)?)
                },
                |answer| match answer {
                    FilterAnswer::Pass => "pass",
                    FilterAnswer::Replace(_) => "replace",
                    FilterAnswer::Drop => "drop",
                    FilterAnswer::Refuse(_) => REFUSE,
                },
            );
            draft.tags = called.state.take_tags();
            let answer = match called.result {
                Ok(answer) => answer,
                Err(failure) => match unit.failure_policy {
                    FailurePolicy::Closed => {
                        return Err(question.failed(unit, failure, called.state.log));
                    }
                    FailurePolicy::Open => {
                        question.passed_over(unit, failure, called.state.log);
                        continue;
                    }
                },
            };
            question.effects.append(&mut called.state.queued);
            if let Some(edits) = called.state.edits {
                edits.apply(&mut draft);
            }
            match answer {
                FilterAnswer::Pass => {}
                FilterAnswer::Replace(data) => draft.data = data,
                FilterAnswer::Drop => return Ok(question.answered(FilteringVerdict::Drop)),
                FilterAnswer::Refuse(refusal) => {
                    let refusal = question.refused(unit, refusal);
                    return without_effects(FilteringVerdict::Refuse(refusal));
                }
            }
        }
        Ok(question.answered(FilteringVerdict::Pass(draft)))
    }

    pub(crate) fn route(self, mut draft: Box<Draft>) -> Answer<RoutingVerdict> {
        let Some(app) = self.snapshot.apps.get(&draft.app) else {
            return without_effects(RoutingVerdict::Keep(draft));
        };
        let units = app.routing.units(&draft.channel, &self.runtime.naming);
        if units.is_empty() {
            return without_effects(RoutingVerdict::Keep(draft));
        }
        let (app, channel) = (draft.app.clone(), Arc::clone(&draft.channel));
        let mut question = self.question(&app, Hook::Routing, &channel);
        let mut routed = None;
        for unit in units {
            let facts = Facts::message(&mut draft, Destinations::Free);
            let mut called = question.call(
                unit,
                facts,
                |store, export| {
                    let guest = export.routing()?;
                    let user = user(&draft.origin);
                    let verdict =
                        guest.call_route(&mut *store, &draft.channel, user, &draft.data)?;
                    let destinations = match &store.data().call.edits {
                        Some(edits) => edits.destinations.as_slice(),
                        None => &[],
                    };
                    Ok(convert::routing(verdict, destinations, &draft.data)?)
                },
                |answer| match answer {
                    RouteAnswer::Keep => "keep",
                    RouteAnswer::Routed => "routed",
                    RouteAnswer::Refuse(_) => REFUSE,
                },
            );
            draft.tags = called.state.take_tags();
            let answer = match called.result {
                Ok(answer) => answer,
                Err(failure) => return Err(question.failed(unit, failure, called.state.log)),
            };
            question.effects.append(&mut called.state.queued);
            let destinations = match called.state.edits {
                Some(edits) => edits.apply(&mut draft),
                None => Vec::new(),
            };
            match answer {
                RouteAnswer::Keep => {}
                RouteAnswer::Routed => routed = Some(destinations),
                RouteAnswer::Refuse(refusal) => {
                    let refusal = question.refused(unit, refusal);
                    return without_effects(RoutingVerdict::Refuse(refusal));
                }
            }
        }
        Ok(question.answered(match routed {
            Some(destinations) => RoutingVerdict::Routed(draft, destinations),
            None => RoutingVerdict::Keep(draft),
        }))
    }
}

/// The word of a refusal, by which calls are counted apart.
const REFUSE: &str = "refuse";

fn user(origin: &Origin) -> &str {
    match origin {
        Origin::Client(peer) => &peer.user,
        Origin::ServerApi | Origin::Plugin => "",
    }
}

impl Unit {
    fn covers(&self, method: &str) -> bool {
        match &self.scope {
            Scope::RpcPrefix(prefix) => method.starts_with(prefix.as_str()),
            Scope::App | Scope::Namespace(_) => true,
        }
    }
}

/// A question on its way through a pipeline.
struct Question<'a> {
    runtime: &'a Runtime,
    app: &'a AppId,
    hook: Hook,
    /// Channel or method, for the story.
    subject: &'a Arc<str>,
    /// Who answered what so far.
    steps: SmallVec<[(&'a Arc<Unit>, Step); 4]>,
    /// There from the moment that a guest asks for it or something fails.
    trace_id: Option<Arc<str>>,
    effects: Vec<Effect>,
}

enum Step {
    Answered(&'static str),
    Failed(Failure, LogTail),
}

impl<'a> Question<'a> {
    fn call<V>(
        &mut self,
        unit: &'a Arc<Unit>,
        facts: Facts,
        ask: impl FnOnce(&mut Store<GuestState>, &Export) -> wasmtime::Result<V>,
        word: impl Fn(&V) -> &'static str,
    ) -> Called<V> {
        let state = CallState::new(facts, self.trace_id.take());
        let mut called = match unit.conduct.admit(self.runtime) {
            Ok(permit) => call(self.runtime, (unit, permit), state, ask, |answer| {
                word(answer) == REFUSE
            }),
            Err(failure) => {
                slots::count(unit, CallEnd::Failed(failure.kind));
                Called {
                    result: Err(failure),
                    state,
                }
            }
        };
        self.trace_id = called.state.trace_id.take();
        if let Ok(answer) = &called.result {
            self.steps.push((unit, Step::Answered(word(answer))));
        }
        called
    }

    /// Calls a hook that has no open policy.
    fn ask_closed<V>(
        &mut self,
        unit: &'a Arc<Unit>,
        facts: Facts,
        ask: impl FnOnce(&mut Store<GuestState>, &Export) -> wasmtime::Result<V>,
        word: impl Fn(&V) -> &'static str,
    ) -> Result<V, HookFailure> {
        let mut called = self.call(unit, facts, ask, word);
        match called.result {
            Ok(answer) => {
                self.effects.append(&mut called.state.queued);
                Ok(answer)
            }
            Err(failure) => Err(self.failed(unit, failure, called.state.log)),
        }
    }

    fn answered<V>(mut self, verdict: V) -> Outcome<V> {
        let effects = mem::take(&mut self.effects);
        if self.trace_id.is_some() {
            self.tell();
        }
        Outcome { verdict, effects }
    }

    /// The refusal as the client may see it.
    fn refused(mut self, unit: &Unit, refusal: Refusal) -> Refusal {
        if self.trace_id.is_some() {
            self.tell();
        }
        if self.runtime.name_in_errors {
            with_name(unit, refusal)
        } else {
            refusal
        }
    }

    #[cold]
    fn failed(&mut self, unit: &'a Arc<Unit>, failure: Failure, log: LogTail) -> HookFailure {
        self.steps.push((unit, Step::Failed(failure.clone(), log)));
        if failure.kind == FailureKind::BreakerOpen {
            let now = self.runtime.clock.now_millis();
            let trace_id = unit.conduct.shared_trace.get(now, || self.tell());
            return HookFailure { trace_id };
        }
        let trace_id = self.tell();
        self.log(unit, &failure, &trace_id);
        HookFailure { trace_id }
    }

    #[cold]
    fn passed_over(&mut self, unit: &'a Arc<Unit>, failure: Failure, log: LogTail) {
        slots::count(unit, CallEnd::PassedOver);
        // An open breaker was told when it opened; a story for each message would push that one out.
        if failure.kind != FailureKind::BreakerOpen {
            let trace_id = Arc::clone(self.trace_id.get_or_insert_with(new_trace_id));
            self.log(unit, &failure, &trace_id);
        }
        self.steps.push((unit, Step::Failed(failure, log)));
    }

    /// Leads from the log to the story. What the plugin said itself is in its own lines.
    fn log(&self, unit: &Unit, failure: &Failure, trace_id: &str) {
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    app = %self.app, plugin = %unit.plugin, version = unit.version, hook = self.hook.as_str(),
                    trace_id, kind = failure.kind.as_str(), detail = %failure.detail,
                    "plugin call failed"
                )
            };
        }
        if unit.conduct.may_warn(self.runtime.clock.now_millis()) {
            line!(warn);
        } else {
            line!(debug);
        }
    }

    /// Keeps the story so far and answers its id.
    #[cold]
    fn tell(&mut self) -> Arc<str> {
        let trace_id = Arc::clone(self.trace_id.get_or_insert_with(new_trace_id));
        let steps = self
            .steps
            .drain(..)
            .map(|(unit, step)| StoryStep {
                plugin: Arc::clone(&unit.plugin),
                version: unit.version,
                ended: match step {
                    Step::Answered(word) => StepEnd::Answered(word),
                    Step::Failed(failure, log) => StepEnd::Failed {
                        kind: failure.kind,
                        detail: failure.detail,
                        log: log.into_lines(),
                        frames: failure.frames,
                        is_passed_over: unit.failure_policy == FailurePolicy::Open,
                    },
                },
            })
            .collect();
        let story = Story::new(
            Arc::clone(&trace_id),
            self.app,
            self.hook,
            self.subject,
            steps,
        );
        self.runtime.stories.keep(story);
        trace_id
    }
}

/// Puts the plugin's name in front; a disconnect's reason is cut to what a close frame holds.
fn with_name(unit: &Unit, refusal: Refusal) -> Refusal {
    let name = |reason: &str| format!("{}@{}: {reason}", unit.plugin, unit.version);
    match refusal {
        Refusal::Error { code, reason } => Refusal::Error {
            code,
            reason: name(&reason).into(),
        },
        Refusal::Disconnect { code, reason } => {
            let named = name(&reason);
            let end = named.floor_char_boundary(DISCONNECT_REASON_BYTES);
            Refusal::Disconnect {
                code,
                reason: named[..end].into(),
            }
        }
    }
}

/// An instance is made for one hook, so the wrong one here is our mistake; it fails the call, not the node.
macro_rules! export {
    ($($name:ident, $variant:ident;)*) => {
        impl Export {
            $(fn $name(&self) -> wasmtime::Result<&crate::generated::exports::tidegate::plugin::$name::Guest> {
                match self {
                    Self::$variant(guest) => Ok(guest),
                    _ => Err(wasmtime::Error::msg("the instance belongs to another hook")),
                }
            })*
        }
    };
}

export! {
    authentication, Authentication;
    authorization, Authorization;
    filtering, Filtering;
    routing, Routing;
    rpc, Rpc;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_ends_at_the_first_boundary_and_ignores_the_private_prefix() {
        let naming = Naming {
            private_prefix: "$".into(),
            namespace_boundary: ":".into(),
        };
        for (channel, namespace) in [
            ("chat:room", Some("chat")),
            ("$chat:room:x", Some("chat")),
            ("room", None),
            ("$room", None),
        ] {
            assert_eq!(naming.namespace(channel), namespace, "{channel}");
        }
    }
}

//! Who is asked, in which order, and how their answers become one.
//!
//! Authentication, authorization and rpc: the first definite answer wins. Filtering: each sees what the one
//! before made of the message; the first drop or refusal ends it. Routing: the last one that did not keep
//! decides. One failure fails the whole question, unless an open policy lets filtering go on. Effects of a
//! question that failed or was refused are discarded. Events and schedules are no questions: each plugin is called for
//! itself (`duties.rs`).

mod duties;
mod messages;
mod question;

use std::sync::Arc;

use rustc_hash::FxHashMap;
use tidegate_realtime::{
    hooks::{
        AuthenticationQuestion, AuthenticationVerdict, AuthorizationQuestion, AuthorizationVerdict,
        Draft, HookFailure, Outcome, RpcQuestion, RpcVerdict,
    },
    ids::AppId,
};

use self::question::Question;
pub(crate) use self::question::Unasked;
use crate::{
    Runtime,
    binding::{Class, Hook, Scope},
    convert,
    guest::{Facts, Input},
    instance::Export,
    lane::{Turn, Waiters},
    unit::Unit,
    verdict::Verdict,
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
    /// Each is told for itself.
    pub(crate) events: Units,
    /// Each runs for itself.
    pub(crate) schedule: Units,
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
    pub(crate) turn: Turn,
}

type Answer<V> = Result<Outcome<V>, HookFailure>;

/// What came of asking about a message inline; the draft comes back when the question has to go aside.
pub(crate) type Ran<V> = Result<Answer<V>, Box<Draft>>;

fn without_effects<V>(verdict: V) -> Answer<V> {
    Ok(Outcome {
        verdict,
        effects: Vec::new(),
    })
}

impl<'a> Asker<'a> {
    /// Who is asked who a client is.
    pub(crate) fn authenticators(self, app: &AppId) -> &'a [Arc<Unit>] {
        match self.snapshot.apps.get(app) {
            Some(app) => &app.authentication,
            None => &[],
        }
    }

    /// Who is asked whether a client may subscribe.
    pub(crate) fn authorizers(self, app: &AppId, channel: &str) -> &'a [Arc<Unit>] {
        match self.snapshot.apps.get(app) {
            Some(app) => app.authorization.units(channel, &self.runtime.naming),
            None => &[],
        }
    }

    /// Who is asked to answer an RPC.
    pub(crate) fn responders(
        self,
        app: &AppId,
        method: &str,
    ) -> impl Iterator<Item = &'a Arc<Unit>> {
        let all = match self.snapshot.apps.get(app) {
            Some(app) => &*app.rpc,
            None => &[],
        };
        all.iter().filter(move |unit| unit.covers(method))
    }

    /// Who is asked about a message before it goes anywhere.
    pub(crate) fn filters(self, draft: &Draft) -> &'a [Arc<Unit>] {
        match self.snapshot.apps.get(&draft.app) {
            Some(app) => app.filtering.units(&draft.channel, &self.runtime.naming),
            None => &[],
        }
    }

    /// Who is asked where a message goes.
    pub(crate) fn routers(self, draft: &Draft) -> &'a [Arc<Unit>] {
        match self.snapshot.apps.get(&draft.app) {
            Some(app) => app.routing.units(&draft.channel, &self.runtime.naming),
            None => &[],
        }
    }

    /// Which of these may wait for other machines.
    pub(crate) fn waiters<'b>(units: impl IntoIterator<Item = &'b Arc<Unit>>) -> Waiters {
        let waiting = units
            .into_iter()
            .filter(|unit| unit.class == Class::Waiting);
        let mut waiters: Waiters = waiting.map(|unit| Arc::clone(&unit.plugin)).collect();
        waiters.sort_unstable();
        waiters.dedup();
        waiters
    }

    /// Whether these may be asked in the lane at hand.
    #[inline]
    fn may_ask(self, units: &[Arc<Unit>]) -> bool {
        match self.turn {
            Turn::Inline => units
                .iter()
                .all(|unit| unit.conduct.is_inline(self.runtime)),
            Turn::Overflow => units.iter().all(|unit| {
                unit.conduct.standing.is_trusted() || unit.conduct.is_shut(self.runtime)
            }),
            Turn::Aside { .. } => true,
        }
    }

    /// An answer for a message that could not be asked about where it could not go elsewhere.
    #[cold]
    pub(crate) fn cannot_ask<V>(self, draft: &Draft, hook: Hook) -> Answer<V> {
        let unasked = Unasked {
            app: draft.app.clone(),
            hook,
            subject: Arc::clone(&draft.channel),
            first: None,
        };
        Err(HookFailure::new(
            unasked.tell(self.runtime, "no instance could be had"),
        ))
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
        let units = self.authenticators(&peer.app);
        if units.is_empty() {
            return without_effects(AuthenticationVerdict::NotMine);
        }
        let reason = convert::authentication_reason(reason);
        let subject = self.runtime.no_subject();
        let mut question = Question::new(
            self,
            (&peer.app, Hook::Authentication, subject),
            Some(&peer),
        );
        for unit in units {
            let facts = Facts::Authentication {
                peer: Arc::clone(&peer),
                token_check: token_check.clone(),
            };
            let verdict = question.ask_closed(
                unit,
                (facts, Input::new(unit, &data, token.len())),
                |store, export| {
                    let guest = export.authentication()?;
                    let verdict = guest.call_authenticate(store, reason, &token, &data)?;
                    Ok(convert::authentication(verdict, unit.common)?)
                },
                |verdict| match verdict {
                    AuthenticationVerdict::NotMine => Verdict::NotMine,
                    AuthenticationVerdict::Accept(_) => Verdict::Accept,
                    AuthenticationVerdict::Refuse(_) => Verdict::Refuse,
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
        let units = self.authorizers(&peer.app, &channel);
        if units.is_empty() {
            return without_effects(AuthorizationVerdict::NotMine);
        }
        let reason = convert::authorization_reason(reason);
        let mut question = Question::new(
            self,
            (&peer.app, Hook::Authorization, &channel),
            Some(&peer),
        );
        for unit in units {
            let facts = Facts::Session {
                peer: Arc::clone(&peer),
            };
            let verdict = question.ask_closed(
                unit,
                (facts, Input::new(unit, &data, 0)),
                |store, export| {
                    let guest = export.authorization()?;
                    let verdict =
                        guest.call_authorize(store, reason, &channel, &peer.user, &data)?;
                    Ok(convert::authorization(verdict, unit.common)?)
                },
                |verdict| match verdict {
                    AuthorizationVerdict::NotMine => Verdict::NotMine,
                    AuthorizationVerdict::Allow(_) => Verdict::Allow,
                    AuthorizationVerdict::Refuse(_) => Verdict::Refuse,
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
        let mut question = Question::new(self, (&peer.app, Hook::Rpc, &method), Some(&peer));
        for unit in self.responders(&peer.app, &method) {
            let facts = Facts::Session {
                peer: Arc::clone(&peer),
            };
            let verdict = question.ask_closed(
                unit,
                (facts, Input::new(unit, &data, 0)),
                |store, export| {
                    let guest = export.rpc()?;
                    let verdict = guest.call_call(store, &method, &peer.user, &data)?;
                    Ok(convert::rpc(verdict, &data, unit.common)?)
                },
                |verdict| match verdict {
                    RpcVerdict::NotMine => Verdict::NotMine,
                    RpcVerdict::Reply(_) => Verdict::Reply,
                    RpcVerdict::Refuse(_) => Verdict::Refuse,
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
}

impl Unit {
    fn covers(&self, method: &str) -> bool {
        match &self.scope {
            Scope::RpcPrefix(prefix) => method.starts_with(prefix.as_str()),
            Scope::App | Scope::Namespace(_) => true,
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
    events, Events;
    schedule, Schedule;
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

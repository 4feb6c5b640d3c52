//! A message on its way through filtering and routing.

use std::sync::Arc;

use tidegate_realtime::{
    hooks::{Draft, FilteringVerdict, Origin, Outcome, Peer, RoutingVerdict},
    ids::AppId,
};

use super::{Asker, Ran, question::Question, without_effects};
use crate::{
    binding::{FailurePolicy, Hook},
    call::NotBegun,
    capabilities::log::CallLog,
    convert::{self, FilterAnswer, RouteAnswer},
    guest::{Destinations, Editable, Facts, Input, Left},
    verdict::Verdict,
};

impl Asker<'_> {
    #[inline]
    pub(crate) fn filter(self, mut draft: Box<Draft>) -> Ran<FilteringVerdict> {
        let units = self.filters(&draft);
        if units.is_empty() {
            return Ok(without_effects(FilteringVerdict::Pass(draft)));
        }
        if !self.may_ask(units) {
            return Err(draft);
        }
        let (about, mut message) = parted(&mut draft);
        let mut question = Question::new(
            self,
            (about.app, Hook::Filtering, about.channel),
            peer(about.origin),
        );
        for unit in units {
            let seated = match question.begin(unit) {
                Ok(seated) => seated,
                Err(NotBegun::NoRoom) => {
                    drop(question);
                    return Err(draft);
                }
                Err(NotBegun::Failed(failure)) => match unit.failure_policy {
                    FailurePolicy::Closed => {
                        return Ok(Err(question.failed(unit, &failure, CallLog::default())));
                    }
                    FailurePolicy::Open => {
                        question.passed_over(unit, failure, CallLog::default());
                        continue;
                    }
                },
            };
            let facts = Facts::message(
                unit,
                (about.origin, about.hops),
                &mut message,
                Destinations::Fixed,
            );
            let called = question.call(
                (unit, seated),
                (facts, Input::new(unit, message.data, 0)),
                |store, export| {
                    let guest = export.filtering()?;
                    let user = user(about.origin);
                    let verdict = guest.call_filter(store, about.channel, user, message.data)?;
                    Ok(convert::filtering(verdict, message.data, unit.common)?)
                },
                |answer| match answer {
                    FilterAnswer::Pass => Verdict::Pass,
                    FilterAnswer::Replace(_) => Verdict::Replace,
                    FilterAnswer::Drop => Verdict::Drop,
                    FilterAnswer::Refuse(_) => Verdict::Refuse,
                },
            );
            if let Some(tags) = called.tags {
                *message.tags = tags;
            }
            let left = called.left;
            let answer = match called.result {
                Ok(answer) => answer,
                Err(failure) => match unit.failure_policy {
                    FailurePolicy::Closed => {
                        return Ok(Err(question.failed(unit, &failure, Left::log(left))));
                    }
                    FailurePolicy::Open => {
                        question.passed_over(unit, failure, Left::log(left));
                        continue;
                    }
                },
            };
            if let Some(mut left) = left {
                question.effects.append(&mut left.queued);
                if let Some(edits) = left.edits {
                    edits.apply(&mut message);
                }
            }
            match answer {
                FilterAnswer::Pass => {}
                FilterAnswer::Replace(data) => *message.data = data,
                FilterAnswer::Drop => return Ok(Ok(question.answered(FilteringVerdict::Drop))),
                FilterAnswer::Refuse(refusal) => {
                    let refusal = question.refused(unit, refusal);
                    return Ok(without_effects(FilteringVerdict::Refuse(refusal)));
                }
            }
        }
        let effects = question.into_effects();
        Ok(Ok(Outcome {
            verdict: FilteringVerdict::Pass(draft),
            effects,
        }))
    }

    pub(crate) fn route(self, mut draft: Box<Draft>) -> Ran<RoutingVerdict> {
        let units = self.routers(&draft);
        if units.is_empty() {
            return Ok(without_effects(RoutingVerdict::Keep(draft)));
        }
        if !self.may_ask(units) {
            return Err(draft);
        }
        let (about, mut message) = parted(&mut draft);
        let mut question = Question::new(
            self,
            (about.app, Hook::Routing, about.channel),
            peer(about.origin),
        );
        let mut routed = None;
        for unit in units {
            let seated = match question.begin(unit) {
                Ok(seated) => seated,
                Err(NotBegun::NoRoom) => {
                    drop(question);
                    return Err(draft);
                }
                Err(NotBegun::Failed(failure)) => {
                    return Ok(Err(question.failed(unit, &failure, CallLog::default())));
                }
            };
            let facts = Facts::message(
                unit,
                (about.origin, about.hops),
                &mut message,
                Destinations::Free,
            );
            let called = question.call(
                (unit, seated),
                (facts, Input::new(unit, message.data, 0)),
                |store, export| {
                    let guest = export.routing()?;
                    let user = user(about.origin);
                    let verdict =
                        guest.call_route(&mut *store, about.channel, user, message.data)?;
                    let destinations = match &store.data().call.edits {
                        Some(edits) => edits.destinations.as_slice(),
                        None => &[],
                    };
                    Ok(convert::routing(verdict, destinations, message.data)?)
                },
                |answer| match answer {
                    RouteAnswer::Keep => Verdict::Keep,
                    RouteAnswer::Routed => Verdict::Routed,
                    RouteAnswer::Refuse(_) => Verdict::Refuse,
                },
            );
            if let Some(tags) = called.tags {
                *message.tags = tags;
            }
            let left = called.left;
            let answer = match called.result {
                Ok(answer) => answer,
                Err(failure) => return Ok(Err(question.failed(unit, &failure, Left::log(left)))),
            };
            let mut destinations = Vec::new();
            if let Some(mut left) = left {
                question.effects.append(&mut left.queued);
                if let Some(edits) = left.edits {
                    destinations = edits.apply(&mut message);
                }
            }
            match answer {
                RouteAnswer::Keep => {}
                RouteAnswer::Routed => routed = Some(destinations),
                RouteAnswer::Refuse(refusal) => {
                    let refusal = question.refused(unit, refusal);
                    return Ok(without_effects(RoutingVerdict::Refuse(refusal)));
                }
            }
        }
        let effects = question.into_effects();
        let verdict = match routed {
            Some(destinations) => RoutingVerdict::Routed(draft, destinations),
            None => RoutingVerdict::Keep(draft),
        };
        Ok(Ok(Outcome { verdict, effects }))
    }
}

/// What of a draft stays as it is while plugins are asked about it.
struct Fixed<'a> {
    app: &'a AppId,
    channel: &'a Arc<str>,
    origin: &'a Origin,
    hops: u8,
}

/// The draft in two parts, so that neither app nor channel has to be counted up and down for each message.
fn parted(draft: &mut Draft) -> (Fixed<'_>, Editable<'_>) {
    let Draft {
        app,
        channel,
        origin,
        data,
        tags,
        skip_history,
        idempotency_key,
        delta,
        hops,
    } = draft;
    let fixed = Fixed {
        app,
        channel,
        origin,
        hops: *hops,
    };
    let editable = Editable {
        data,
        tags,
        skip_history,
        idempotency_key,
        delta,
    };
    (fixed, editable)
}

fn user(origin: &Origin) -> &str {
    peer(origin).map_or("", |peer| &peer.user)
}

fn peer(origin: &Origin) -> Option<&Arc<Peer>> {
    match origin {
        Origin::Client(peer) => Some(peer),
        Origin::ServerApi | Origin::Plugin => None,
    }
}

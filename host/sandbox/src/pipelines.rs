//! The pipelines of an app, as operators see them: who is asked where, in which order, and how long it may take.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tidegate_realtime::{
    hooks::{Draft, Origin},
    ids::AppId,
};

use crate::{
    binding::{FailurePolicy, Hook, Isolation, Scope},
    breaker::BreakerState,
    deadline,
    lane::{LONGEST_WAIT, LONGEST_WAIT_TO_WAIT, Lane},
    limits,
    pipeline::{AppPipelines, Asker, Scoped},
    ticker,
    unit::Unit,
};

/// Who is asked at a hook in a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pipeline {
    pub hook: Hook,
    /// For hooks of channels `app` means the channels of all namespaces that have no pipeline of their own; for rpc a
    /// prefix means the methods that no longer prefix fits.
    pub scope: Scope,
    /// In the order in which they are asked.
    pub steps: Vec<PipelineStep>,
    /// Where all of them run: aside if one of them has to.
    pub lane: Lane,
    /// What the plugins may take together.
    pub deadlines: Duration,
    /// What one question can take at most, on a machine that is as busy as can be: the wait for a plugin thread, a
    /// fresh instance for each plugin, and every deadline put off as often as it may be.
    pub worst_case: Duration,
}

/// One plugin in a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineStep {
    pub plugin: Arc<str>,
    pub version: u32,
    /// Of the binding.
    pub scope: Scope,
    pub failure_policy: FailurePolicy,
    pub isolation: Isolation,
    /// What the version has earned by itself.
    pub lane: Lane,
    pub breaker: BreakerState,
    pub deadline: Duration,
}

/// Which pipelines are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct PipelineQuery<'a> {
    /// All hooks if none is named.
    pub hook: Option<Hook>,
    /// Those that a channel meets, if one is named.
    pub channel: Option<&'a str>,
}

impl PipelineQuery<'_> {
    /// Answered by the functions that choose whom a question is asked.
    pub(crate) fn answer(self, asker: Asker<'_>, app: &AppId) -> Vec<Pipeline> {
        let Some(pipelines) = asker.snapshot.apps.get(app) else {
            return Vec::new();
        };
        let hooks = Hook::ALL
            .into_iter()
            .filter(|hook| self.hook.is_none_or(|wanted| wanted == *hook));
        let found: Vec<Found<'_>> = match self.channel {
            Some(channel) => hooks
                .filter_map(|hook| met(asker, (app, pipelines), channel, hook))
                .collect(),
            None => hooks
                .flat_map(|hook| match (hook, scoped(pipelines, hook)) {
                    (_, Some(scoped)) => all(scoped, hook),
                    (Hook::Rpc, None) => by_prefix(asker, app, &pipelines.rpc),
                    (Hook::Events, None) => alone(hook, &pipelines.events),
                    (Hook::Schedule, None) => alone(hook, &pipelines.schedule),
                    (_, None) => vec![(hook, Scope::App, refs(&pipelines.authentication))],
                })
                .collect(),
        };
        let now = asker.runtime.clock.now_millis();
        found
            .into_iter()
            .filter(|(_, _, units)| !units.is_empty())
            .map(|(hook, scope, units)| Pipeline::new(hook, scope, &units, now))
            .collect()
    }
}

type Found<'a> = (Hook, Scope, Vec<&'a Arc<Unit>>);

/// The pipelines of a hook of channels.
fn scoped(app: &AppPipelines, hook: Hook) -> Option<&Scoped> {
    match hook {
        Hook::Authorization => Some(&app.authorization),
        Hook::Filtering => Some(&app.filtering),
        Hook::Routing => Some(&app.routing),
        Hook::Authentication | Hook::Rpc | Hook::Events | Hook::Schedule => None,
    }
}

/// Plugins that are called each for itself are a pipeline each.
fn alone(hook: Hook, units: &[Arc<Unit>]) -> Vec<Found<'_>> {
    let units = units.iter();
    units.map(|unit| (hook, Scope::App, vec![unit])).collect()
}

fn refs(units: &[Arc<Unit>]) -> Vec<&Arc<Unit>> {
    units.iter().collect()
}

/// Who is asked about a channel, and under which scope they are found.
fn met<'a>(
    asker: Asker<'a>,
    (app, pipelines): (&AppId, &'a AppPipelines),
    channel: &str,
    hook: Hook,
) -> Option<Found<'a>> {
    let draft = Draft {
        app: app.clone(),
        channel: channel.into(),
        origin: Origin::ServerApi,
        data: Bytes::new(),
        tags: Vec::new(),
        skip_history: false,
        idempotency_key: None,
        delta: None,
        hops: 0,
    };
    let units = match hook {
        Hook::Authorization => asker.authorizers(app, channel),
        Hook::Filtering => asker.filters(&draft),
        Hook::Routing => asker.routers(&draft),
        Hook::Authentication | Hook::Rpc | Hook::Events | Hook::Schedule => return None,
    };
    let mut named = scoped(pipelines, hook)?.namespaces.iter();
    let own = named.find(|(_, own)| std::ptr::eq(&***own, units));
    let scope = own.map_or(Scope::App, |(name, _)| Scope::Namespace(name.to_string()));
    Some((hook, scope, refs(units)))
}

fn all(scoped: &Scoped, hook: Hook) -> Vec<Found<'_>> {
    let mut found = vec![(hook, Scope::App, refs(&scoped.elsewhere))];
    let named = scoped.namespaces.iter();
    found
        .extend(named.map(|(name, units)| (hook, Scope::Namespace(name.to_string()), refs(units))));
    found.sort_by(|one, other| one.1.cmp(&other.1));
    found
}

/// A pipeline for each prefix that something is bound to, and one for all other methods.
fn by_prefix<'a>(asker: Asker<'a>, app: &AppId, units: &'a [Arc<Unit>]) -> Vec<Found<'a>> {
    let mut scopes: Vec<&Scope> = units.iter().map(|unit| &unit.scope).collect();
    scopes.push(&Scope::App);
    scopes.sort();
    scopes.dedup();
    let within = |scope: &Scope| {
        let asked = match scope {
            Scope::RpcPrefix(prefix) => asker.responders(app, prefix).collect(),
            Scope::App | Scope::Namespace(_) => {
                let everywhere = units.iter().filter(|unit| unit.scope == Scope::App);
                everywhere.collect()
            }
        };
        (Hook::Rpc, scope.clone(), asked)
    };
    scopes.into_iter().map(within).collect()
}

impl Pipeline {
    fn new(hook: Hook, scope: Scope, units: &[&Arc<Unit>], now_millis: u64) -> Self {
        let steps: Vec<_> = units.iter().map(|unit| step(unit, now_millis)).collect();
        let lane = steps.iter().map(|step| step.lane).max();
        let lane = lane.unwrap_or(Lane::Inline);
        // An inline question that finds no instance goes aside, and waits there like any other.
        let queue = match lane {
            Lane::Inline | Lane::Aside => LONGEST_WAIT,
            Lane::Waiting => LONGEST_WAIT_TO_WAIT,
        };
        let instance = deadline::longest(ticker::ticks(limits::INSTANTIATION_DEADLINE));
        let calls = units.iter().map(|unit| instance + unit.longest_call());
        Self {
            hook,
            scope,
            lane,
            deadlines: units.iter().map(|unit| unit.deadline).sum(),
            worst_case: queue + calls.sum::<Duration>(),
            steps,
        }
    }
}

fn step(unit: &Unit, now_millis: u64) -> PipelineStep {
    PipelineStep {
        plugin: Arc::clone(&unit.plugin),
        version: unit.version,
        scope: unit.scope.clone(),
        failure_policy: unit.failure_policy,
        isolation: unit.isolation,
        lane: unit.conduct.lane(),
        breaker: unit.conduct.breaker.state(now_millis),
        deadline: unit.deadline,
    }
}

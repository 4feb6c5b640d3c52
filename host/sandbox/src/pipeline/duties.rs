//! Calls that nobody waits for with a question: a batch of events, a run of a schedule.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_realtime::{
    events::Event,
    hooks::{EventsQuestion, ScheduleQuestion},
    ids::AppId,
};

use super::{Answer, Asker, Question, Units, without_effects};
use crate::{
    binding::Hook,
    convert,
    failure::GuestFault,
    generated::exports::tidegate::plugin::events as wit,
    guest::{Facts, Input},
    unit::Unit,
    verdict::Verdict,
};

/// Longest text in which a plugin says why it could not.
const TROUBLE_BYTES: usize = 1_024;

impl<'a> Asker<'a> {
    /// The unit of a plugin at one of these hooks.
    pub(crate) fn on_duty(self, app: &AppId, hook: Hook, plugin: &str) -> Option<&'a Arc<Unit>> {
        let app = self.snapshot.apps.get(app)?;
        let units: &Units = match hook {
            Hook::Events => &app.events,
            Hook::Schedule => &app.schedule,
            Hook::Authentication
            | Hook::Authorization
            | Hook::Filtering
            | Hook::Routing
            | Hook::Rpc => return None,
        };
        units.iter().find(|unit| *unit.plugin == *plugin)
    }

    /// Tells one plugin what happened. One that is bound no more has nothing to be told.
    pub(crate) fn tell(self, question: EventsQuestion) -> Answer<()> {
        let EventsQuestion { app, plugin, batch } = question;
        let Some(unit) = self.on_duty(&app, Hook::Events, &plugin) else {
            return without_effects(());
        };
        let hops = batch.iter().map(|event| event.hops).max().unwrap_or(0);
        let subject: Arc<str> = match batch.as_slice() {
            [one] => one.kind.as_str().into(),
            many => format!("{} events", many.len()).into(),
        };
        let batch: Vec<wit::Event> = batch.iter().map(shown).collect();
        let bytes = batch.iter().map(size).sum();
        let mut question = Question::new(self, (&app, Hook::Events, &subject), None);
        let told = question.ask_closed(
            unit,
            (
                Facts::Alone { hops },
                Input::new(unit, &Bytes::new(), bytes),
            ),
            |store, export| Ok(trouble(export.events()?.call_handle(store, &batch)?)?),
            verdict,
        )?;
        match told {
            Ok(()) => Ok(question.answered(())),
            Err(reason) => Err(question.troubled(unit, reason)),
        }
    }

    /// Has one plugin do what it does by the clock.
    pub(crate) fn run(self, question: ScheduleQuestion) -> Answer<()> {
        let ScheduleQuestion {
            app,
            plugin,
            period,
            due_ms,
        } = question;
        let Some(unit) = self.on_duty(&app, Hook::Schedule, &plugin) else {
            return without_effects(());
        };
        let mut question = Question::new(self, (&app, Hook::Schedule, &period), None);
        let ran = question.ask_closed(
            unit,
            (
                Facts::Alone { hops: 0 },
                Input::new(unit, &Bytes::new(), period.len()),
            ),
            |store, export| {
                Ok(trouble(
                    export.schedule()?.call_run(store, &period, due_ms)?,
                )?)
            },
            verdict,
        )?;
        match ran {
            Ok(()) => Ok(question.answered(())),
            Err(reason) => Err(question.troubled(unit, reason)),
        }
    }
}

fn verdict(answer: &Result<(), String>) -> Verdict {
    match answer {
        Ok(()) => Verdict::Done,
        Err(_) => Verdict::Trouble,
    }
}

fn trouble(answer: Result<(), String>) -> Result<Result<(), String>, GuestFault> {
    match answer {
        Err(reason) if reason.len() > TROUBLE_BYTES => Err(GuestFault::bad_value(format!(
            "the reason of an error has {} bytes, more than {TROUBLE_BYTES}",
            reason.len()
        ))),
        answer => Ok(answer),
    }
}

/// An event as plugins see it.
fn shown(event: &Event) -> wit::Event {
    let Event {
        id,
        kind,
        at_ms,
        user,
        client,
        channel,
        code,
        reason,
        hops: _,
    } = event;
    wit::Event {
        id: id.to_string(),
        kind: convert::event_kind(*kind),
        at_ms: *at_ms,
        user: user.as_ref().to_owned(),
        client: client.map(|client| client.to_string()).unwrap_or_default(),
        channel: channel.as_ref().to_owned(),
        code: *code,
        reason: reason.as_ref().to_owned(),
    }
}

/// Bytes that the plugin is given for it.
fn size(event: &wit::Event) -> usize {
    let texts = [
        &event.id,
        &event.user,
        &event.client,
        &event.channel,
        &event.reason,
    ];
    texts.iter().map(|text| text.len()).sum()
}

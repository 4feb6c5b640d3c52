//! The driver: one connection's session with the world around it.
//!
//! Owns the session machine, what it waits for, and the commands that wait behind it. Frames come in from the
//! transport, answers from hooks, broker and hub, signals from the link; replies go onto the link. What can be
//! answered at once is, without a future; the rest is one boxed future, and no command is read until it is done.
//! What exceeds the [`Budget`] of a poll waits in the same place, in the same order. Dropping the driver is the
//! cleanup: seats are left, the registration ends, the wait is cancelled.

mod budget;
mod flows;
mod presence;
mod sink;
mod tellings;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
};

use tidegate_protocol::{
    Command, DecodeError, DisconnectCode, Limits,
    codec::{Commands, DecodeReason},
};
use tokio::time::Instant;

pub use self::budget::Budget;
use self::sink::LinkSink;
pub use crate::session::Closing;
use crate::{
    app::{App, Open, Registration},
    cluster::Order,
    entrance::{Entering, Selection},
    events::{EventKind, OF_SUBSCRIPTIONS},
    hooks::{Peer, Progress},
    hub::Membership,
    link::{Link, Signal},
    node::Node,
    publish::{self, Publishing},
    session::{Answer, Ask, Context, Now, Pings, PublishAsk, Session, SessionAddress, Sink, Step},
};

/// What the transport does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Read on.
    Read,
    /// Read nothing; poll [`Driver::poll_answer`], with the budget of that poll.
    Wait,
    /// Send the closing frame and end the connection. For [`DisconnectCode::Slow`] what is queued was dropped.
    Close(Closing),
}

/// An answer, and what came of it outside the session.
struct Resolved {
    answer: Answer<Membership>,
    /// The user's place, for a connect that succeeded.
    entry: Option<(Registration, Entering)>,
}

impl From<Answer<Membership>> for Resolved {
    fn from(answer: Answer<Membership>) -> Self {
        Self {
            answer,
            entry: None,
        }
    }
}

/// One connection.
pub struct Driver {
    node: Arc<Node>,
    app: Arc<App>,
    link: Arc<Link>,
    session: Session,
    waiting: Option<Pin<Box<dyn Future<Output = Resolved> + Send>>>,
    /// Commands of a frame behind one that waits, or beyond the budget; never empty.
    #[expect(
        clippy::box_collection,
        reason = "an idle session pays one pointer for it"
    )]
    queue: Option<Box<VecDeque<Result<Command, DecodeError>>>>,
    /// What the wheel was told.
    scheduled: Option<Instant>,
    registration: Option<Registration>,
    open: Open,
    /// What was wrong with the frame that ends the session.
    fault: Option<DecodeReason>,
    /// Why the node ends the session, for whoever is told of its end.
    closing: Option<Box<Closing>>,
}

impl Driver {
    pub(crate) fn new(
        node: Arc<Node>,
        app: Arc<App>,
        open: Open,
        link: Arc<Link>,
        (peer, pings): (Arc<Peer>, Pings),
    ) -> Self {
        node.metrics().sessions.inc();
        let mut driver = Self {
            session: Session::new(peer, Instant::now(), rand::random()).with_pings(pings),
            node,
            app,
            link,
            waiting: None,
            queue: None,
            scheduled: None,
            registration: None,
            open,
            fault: None,
            closing: None,
        };
        driver.schedule();
        driver
    }

    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The deadline that the wheel was last given.
    pub fn deadline(&self) -> Option<Instant> {
        self.scheduled
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Takes a frame of commands and carries out what the budget pays for. Must not be called while the last
    /// turn was [`Turn::Wait`].
    pub fn on_frame(&mut self, frame: &[u8], budget: &mut Budget) -> Turn {
        let now = Now::read();
        let mut commands = match Commands::new(self.link.codec(), frame, &Limits::default()) {
            Ok(commands) => commands,
            Err(error) => {
                let turn = self.bad_frame(error);
                return self.after(turn, now);
            }
        };
        while let Some(command) = commands.next() {
            if !budget.spend() {
                let rest = std::iter::once(command).chain(commands).collect();
                self.queue = Some(Box::new(rest));
                return self.after(Turn::Wait, now);
            }
            let turn = self.on_command(command, now);
            match turn {
                Turn::Read => {}
                Turn::Wait => {
                    let rest: VecDeque<_> = commands.collect();
                    if !rest.is_empty() {
                        self.queue = Some(Box::new(rest));
                    }
                    return self.after(turn, now);
                }
                Turn::Close(_) => return self.after(turn, now),
            }
        }
        self.after(Turn::Read, now)
    }

    /// Waits for the answer that the last turn asked for, and goes on with the commands behind it. Pending with
    /// a spent budget has woken the task already.
    pub fn poll_answer(
        &mut self,
        context: &mut task::Context<'_>,
        budget: &mut Budget,
    ) -> Poll<Turn> {
        loop {
            let resolved = match &mut self.waiting {
                None => None,
                Some(waiting) => match waiting.as_mut().poll(context) {
                    Poll::Ready(resolved) => Some(resolved),
                    Poll::Pending => return Poll::Pending,
                },
            };
            self.waiting = None;
            let now = Now::read();
            let turn = match resolved.map(|resolved| self.resolve(resolved, now)) {
                None | Some(Turn::Read) => self.on_queue(now, budget),
                Some(turn) => turn,
            };
            match self.after(turn, now) {
                // The next future has to be polled once, so that it can wake the task.
                Turn::Wait if self.waiting.is_some() => {}
                Turn::Wait => {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                turn => return Poll::Ready(turn),
            }
        }
    }

    /// Whether an answer or a further turn is waited for.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some() || self.queue.is_some()
    }

    /// Takes note of a pong of the transport's own kind.
    pub fn on_native_pong(&mut self) {
        self.session.on_native_pong();
        self.schedule();
    }

    /// Acts on what was left on the link. The transport calls it when its task was woken.
    pub fn on_signals(&mut self) -> Turn {
        let signals = self.link.take_signals();
        if signals.is_empty() {
            return self.idle_turn();
        }
        let now = Now::read();
        for signal in signals {
            if matches!(signal, Signal::Deadline) {
                self.scheduled = None;
            }
            let turn = self.step(now, |session, context, sink| {
                session.on_signal(&signal, context, sink)
            });
            if matches!(turn, Turn::Close(_)) {
                return self.after(turn, now);
            }
        }
        let turn = self.idle_turn();
        self.after(turn, now)
    }

    fn idle_turn(&self) -> Turn {
        if self.is_waiting() {
            Turn::Wait
        } else {
            Turn::Read
        }
    }

    fn on_command(&mut self, command: Result<Command, DecodeError>, now: Now) -> Turn {
        match command {
            Ok(command) => self.step(now, |session, context, sink| {
                session.handle(command, context, sink)
            }),
            Err(error) => self.bad_frame(error),
        }
    }

    fn on_queue(&mut self, now: Now, budget: &mut Budget) -> Turn {
        while let Some(queue) = &mut self.queue {
            if !budget.spend() {
                return Turn::Wait;
            }
            let command = queue.pop_front();
            if queue.is_empty() {
                self.queue = None;
            }
            let Some(command) = command else {
                break;
            };
            match self.on_command(command, now) {
                Turn::Read => {}
                turn => return turn,
            }
        }
        Turn::Read
    }

    fn bad_frame(&mut self, error: DecodeError) -> Turn {
        self.node.metrics().count_bad_frame(error.reason.label());
        self.fault = Some(error.reason);
        Turn::Close(DisconnectCode::BadRequest.into())
    }

    /// Runs one step of the machine, and what it asks for, as far as that is answered at once.
    fn step(
        &mut self,
        now: Now,
        run: impl FnOnce(&mut Session, &Context<'_>, &mut dyn Sink) -> Step,
    ) -> Turn {
        if self.app.desk().wanted().meets(OF_SUBSCRIPTIONS) {
            self.session.take_notes();
        }
        let mut sink = LinkSink::new(&self.link, self.node.metrics());
        let step = {
            let settings = self.app.settings();
            let address = self.link.session().map(|session| SessionAddress {
                session,
                node: self.node.uid(),
            });
            let context = Context {
                now,
                settings: &settings,
                version: self.node.version(),
                address: address.as_ref(),
            };
            run(&mut self.session, &context, &mut sink)
        };
        let fault = sink.fault;
        self.tell_notes();
        if let Some(error) = fault {
            tracing::debug!(session.id = %self.link.client(), %error, "reply cannot be sent");
            return Turn::Close(DisconnectCode::InappropriateProtocol.into());
        }
        match step {
            Step::Done => Turn::Read,
            Step::Close(closing) => Turn::Close(closing),
            Step::Ask(ask) => match self.carry_out(ask, now) {
                Progress::Ready(resolved) => self.resolve(resolved, now),
                Progress::Pending(waiting) => {
                    self.waiting = Some(waiting);
                    Turn::Wait
                }
            },
        }
    }

    /// Hands an answer to the machine.
    fn resolve(&mut self, resolved: Resolved, now: Now) -> Turn {
        let Resolved { answer, entry } = resolved;
        let metrics = self.node.metrics();
        let counted = match &answer {
            Answer::Publish(outcome) => Some((&metrics.publishes, outcome.is_ok())),
            Answer::Connect(outcome) => Some((&metrics.connects, outcome.is_ok())),
            Answer::Subscribe(outcome) => Some((&metrics.subscribes, outcome.is_ok())),
            Answer::Rpc(_)
            | Answer::History(_)
            | Answer::Presence(_)
            | Answer::PresenceStats(_)
            | Answer::Enlist(_)
            | Answer::RefreshIdentity(_)
            | Answer::RefreshSubscription(_) => None,
        };
        if let Some((outcomes, is_ok)) = counted {
            outcomes.count(is_ok);
        }
        let turn = self.step(now, |session, context, sink| {
            session.answer(answer, context, sink)
        });
        if let Some((registration, entering)) = entry
            && self.session.is_connected()
        {
            entering.enter(&registration, &self.link, self.session.peer());
            self.end_others(&registration);
            let since_ms = registration.arrival().at;
            self.node
                .session_came(&self.app, self.session.peer(), since_ms);
            self.registration = Some(registration);
            self.tell(EventKind::Connected, |event| event);
            self.tell_notes();
        }
        turn
    }

    fn carry_out(&mut self, ask: Ask, now: Now) -> Progress<Resolved> {
        match ask {
            Ask::Publish(PublishAsk {
                draft,
                data,
                key,
                chan_info,
            }) => {
                let publishing = Publishing {
                    draft,
                    data,
                    key,
                    chan_info,
                    version: 0,
                    version_epoch: Box::default(),
                };
                publish::publish(&self.node, &self.app, publishing)
                    .map(|outcome| Answer::Publish(outcome.map(|_| ())).into())
            }
            Ask::History(ask) => flows::history(&self.node, *ask),
            Ask::Presence(key) => presence::members(&self.node, &key),
            Ask::PresenceStats(key) => presence::stats(&self.node, &key),
            Ask::Rpc(question) => flows::rpc(&self.node, &self.app, *question),
            Ask::Connect(ask) => Progress::Pending(Box::pin(flows::connect(
                Arc::clone(&self.node),
                Arc::clone(&self.app),
                Arc::clone(&self.link),
                Entering::begin(&self.app),
                *ask,
                now,
            ))),
            Ask::Subscribe(ask) => Progress::Pending(Box::pin(flows::subscribe(
                Arc::clone(&self.node),
                Arc::clone(&self.app),
                Arc::clone(&self.link),
                Arc::clone(self.session.peer()),
                *ask,
                now,
            ))),
            Ask::Enlist(ask) => Progress::Pending(Box::pin(flows::enlist(
                Arc::clone(&self.node),
                Arc::clone(&self.app),
                Arc::clone(&self.link),
                Arc::clone(self.session.peer()),
                *ask,
            ))),
            Ask::RefreshIdentity(question) => {
                flows::refresh_identity(&self.node, &self.app, *question)
            }
            Ask::RefreshSubscription(question) => {
                flows::refresh_subscription(&self.node, &self.app, *question)
            }
        }
    }

    /// Ends the user's other connections, where a user has one at most.
    fn end_others(&self, registration: &Registration) {
        let user = registration.user();
        let is_single = {
            let settings = self.app.settings();
            let personal = settings.client.personal_channel.as_ref();
            personal.is_some_and(|personal| personal.is_single_connection)
        };
        if !is_single || user.is_empty() {
            return;
        }
        let code = DisconnectCode::ConnectionLimit;
        let order = Order::Disconnect {
            of: Selection {
                before: Some(registration.arrival()),
                ..Selection::of_user(user)
            },
            code: code.code(),
            reason: code.text().to_owned(),
        };
        self.node.tell_in_background(&self.app, order);
    }

    /// What follows every turn: things that became due while somebody was asked, subscriptions that are lined up,
    /// and the next deadline.
    fn after(&mut self, turn: Turn, now: Now) -> Turn {
        let mut turn = turn;
        if turn == Turn::Read {
            let is_due = {
                let settings = self.app.settings();
                self.session.next_deadline(&settings.client) <= now.instant
            };
            if is_due {
                turn = self.step(now, Session::on_deadline);
            }
        }
        if turn == Turn::Read && self.session.has_enlistments() {
            turn = self.step(now, Session::enlist_next);
        }
        match &turn {
            Turn::Close(closing) => {
                let reason = self.fault.map(DecodeReason::label);
                self.count_close(closing, reason);
            }
            Turn::Read | Turn::Wait => self.schedule(),
        }
        turn
    }

    /// Counts and logs that the transport ends the session for what the peer sent. `reason` is of a closed set.
    pub fn on_violation(&mut self, closing: &Closing, reason: &'static str) {
        self.node.metrics().count_bad_frame(reason);
        self.count_close(closing, Some(reason));
    }

    /// Counts and logs that the transport ends the session since the peer takes nothing.
    pub fn on_stall(&mut self, closing: &Closing) {
        self.count_close(closing, Some("write_stalled"));
    }

    fn count_close(&mut self, closing: &Closing, reason: Option<&'static str>) {
        if self.app.desk().wants(EventKind::Disconnected) {
            self.closing = Some(Box::new(closing.clone()));
        }
        self.node.metrics().count_disconnect(closing.code);
        tracing::debug!(
            session.id = %self.link.client(),
            code = closing.code,
            reason,
            "session closes"
        );
    }

    fn schedule(&mut self) {
        let next = {
            let settings = self.app.settings();
            self.session.next_deadline(&settings.client)
        };
        if self.scheduled != Some(next) {
            self.scheduled = Some(next);
            self.node.hub().schedule(&self.link, next);
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.tell_end();
        self.node.hub().unschedule(&self.link);
        self.node.metrics().sessions.dec();
        if let Some(registration) = self.registration.take() {
            let user = registration.user_arc();
            drop(registration);
            self.node.session_went(&self.app, &user, self.link.client());
        }
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver")
            .field("app", &self.app)
            .field("link", &self.link)
            .field("is_waiting", &self.is_waiting())
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

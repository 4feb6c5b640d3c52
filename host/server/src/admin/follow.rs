//! Following a store that nodes share: what another node changed comes to run here.
//!
//! A hint of the store, or a look at its revision once a second, says that something changed. Then everything is read
//! at one moment and carried out: keys, apps, plugins and bindings; what is new is compiled before anybody else's change
//! has to wait for it. What cannot run here leaves the former version running, and this node's report says so; a state
//! that cannot run at all is tried again. Invariants: what runs is what the store said at one moment, or the last such
//! moment while the store is away; an app is open only while its plugins are those of the same moment; nothing is
//! compiled while the turn to apply is held.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tidegate_control::{AppName, AppSecret, PluginName, Revision, State, Store, StoreError};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{Admin, Refused, blocking};

/// Between two looks at the store's revision: what a lost hint costs.
const POLL: Duration = Duration::from_secs(1);

/// Between two reports of a node that runs what it ran before.
const REPORT: Duration = Duration::from_secs(5);

/// A node that was silent for this long is not counted among those that run.
pub(super) const SILENT: Duration = Duration::from_secs(20);

/// Between two warnings that this node was cut off for too long (as of insecure switches, threat model P5).
const WARNING: Duration = Duration::from_secs(600);

/// First and longest pause before what could not run here is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// How far this node is with the store.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// The revision that runs; `None` until the store answered for the first time.
    revision: Option<Revision>,
    /// The revision that was read last; another one than what runs if that was refused.
    seen: Option<Revision>,
    /// Everything has to be read and applied, whatever the revision: the store was away, or it is time to try again.
    must_read: bool,
    /// What runs could not be written to this node's disk.
    is_unkept: bool,
    /// The created apps that are open, with the secret of their tokens.
    apps: HashMap<AppName, String>,
    /// Why what the store says could not be applied as a whole.
    problem: Option<Refused>,
    is_away: bool,
}

/// What there is to do again, and when.
struct Pace {
    reported: Option<(Instant, Value)>,
    retry_at: Instant,
    retry_pause: Duration,
    warned_at: Option<Instant>,
}

impl Followed {
    /// What need not be read again.
    fn settled(&self) -> Option<Revision> {
        self.seen.clone().filter(|_| !self.must_read)
    }

    /// Tries what did not work once more.
    pub(super) fn try_again(&mut self) {
        self.must_read |= self.problem.is_some() || self.is_unkept;
    }
}

impl Admin {
    /// Follows the store until `stop`. Does nothing for a store of one node.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        if !self.store.is_shared() {
            stop.cancelled().await;
            return;
        }
        let mut ticks = tokio::time::interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pace = Pace {
            reported: None,
            retry_at: Instant::now() + RETRY.0,
            retry_pause: RETRY.0,
            warned_at: None,
        };
        loop {
            tokio::select! {
                biased; // Stop wins, so that shutdown is prompt.
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
                () = self.store.changed() => {}
            }
            // What was begun is finished: it is in the middle of nothing when the node stops.
            self.catch_up(&mut pace).await;
            self.report(&mut pace).await;
        }
        let node = self.node.uid.clone();
        let withdrawn = blocking(&self.store, move |store| store.withdraw_report(&node)).await;
        if let Err(error) = withdrawn {
            tracing::debug!(%error, "what this node runs could not be taken back; it is forgotten by itself");
        }
    }

    /// Reads the state to start with: the store's, or while that is away the one that this node ran by last.
    pub(super) async fn first_state(&self) -> Result<State, StoreError> {
        let (state, is_current) = blocking(&self.store, |store| match store.follow() {
            Err(error) if error.is_away() => {
                let kept = store.remembered().ok_or(error)?;
                Ok((kept, false))
            }
            answered => Ok((answered?, true)),
        })
        .await?;
        let mut followed = self.followed.lock();
        followed.is_away = !is_current;
        followed.must_read = !is_current;
        let revision = is_current.then(|| state.revision.clone());
        followed.seen.clone_from(&revision);
        followed.revision = revision;
        Ok(state)
    }

    /// Whether the store answers, as of the last look.
    pub(super) fn is_followed(&self) -> bool {
        !self.followed.lock().is_away
    }

    /// Keeps what the store just said for a start without it.
    pub(super) async fn keep(&self, state: State) -> Result<(), StoreError> {
        let is_kept = blocking(&self.store, move |store| {
            let is_kept = store.remember(&state);
            store.confirm(&state.revision);
            Ok(is_kept)
        })
        .await?;
        self.followed.lock().is_unkept = !is_kept;
        Ok(())
    }

    /// Closes apps that the store does not name any more.
    fn close_apps(&self, wanted: &[AppSecret]) {
        let gone = {
            let mut followed = self.followed.lock();
            let mut gone: Vec<AppName> = followed.apps.keys().cloned().collect();
            gone.retain(|app| !wanted.iter().any(|wanted| wanted.name == *app));
            followed.apps.retain(|app, _| !gone.contains(app));
            gone
        };
        for app in gone {
            // What its plugins kept for all nodes, the node that deleted it has forgotten.
            self.close_app(&app, &[]);
        }
    }

    /// Opens apps until those are open that the store names; their plugins run already.
    pub(super) fn open_apps(&self, wanted: &[AppSecret]) {
        let new = {
            let mut followed = self.followed.lock();
            let mut new = Vec::new();
            for AppSecret { name, token_secret } in wanted {
                let secret = token_secret.reveal();
                if followed.apps.get(name).is_none_or(|known| known != secret) {
                    followed.apps.insert(name.clone(), secret.to_owned());
                    new.push((name, secret));
                }
            }
            new
        };
        for (app, secret) in new {
            self.apps.open(app, secret);
        }
    }

    /// Lets the clients of an app in that was just created here.
    pub(super) fn open_app(&self, app: &AppName, secret: &str) {
        let mut followed = self.followed.lock();
        followed.apps.insert(app.clone(), secret.to_owned());
        drop(followed);
        self.apps.open(app, secret);
    }

    /// Ends everything of an app that was deleted.
    pub(super) fn close_app(&self, app: &AppName, plugins: &[PluginName]) {
        self.followed.lock().apps.remove(app);
        self.apps.close(app);
        self.quotas.forget(app);
        self.followers.end_app(app);
        self.host.forget_app(app, plugins);
    }

    /// Whether an app was there when the store was heard last.
    pub(super) fn knows(&self, app: &AppName) -> bool {
        app.as_str() == AppName::DEFAULT || self.followed.lock().apps.contains_key(app)
    }

    async fn catch_up(&self, pace: &mut Pace) {
        match self.try_catch_up().await {
            Ok(is_changed) => {
                if std::mem::take(&mut self.followed.lock().is_away) {
                    tracing::info!("the control store answers again");
                    pace.retry_at = Instant::now();
                }
                if is_changed {
                    pace.retry_pause = RETRY.0;
                    pace.retry_at = Instant::now() + RETRY.0;
                }
            }
            Err(error) => {
                let was_away = std::mem::replace(&mut self.followed.lock().is_away, true);
                if !was_away {
                    tracing::warn!(%error, "the control store does not answer; what runs goes on, and changes are refused");
                }
                self.warn_of_age(pace);
                return;
            }
        }
        if Instant::now() >= pace.retry_at {
            pace.retry_at = Instant::now() + pace.retry_pause;
            pace.retry_pause = (pace.retry_pause * 2).min(RETRY.1);
            self.followed.lock().try_again();
            // Nothing is done where nothing waits.
            self.changed.notify_one();
        }
    }

    fn warn_of_age(&self, pace: &mut Pace) {
        let Some(heard) = self.store.heard().filter(|heard| heard.is_too_long) else {
            return;
        };
        if pace.warned_at.is_none_or(|at| at.elapsed() >= WARNING) {
            pace.warned_at = Some(Instant::now());
            tracing::error!(
                seconds = heard.ago.as_secs(),
                "this node is cut off from the control store for longer than control.postgres.max_copy_age: keys that were revoked and apps that were deleted meanwhile still count here, and it would not start again"
            );
        }
    }

    /// Reads and carries out what the store has; answers whether that is something new. Nothing is read where the
    /// revision says that it runs.
    pub(super) async fn try_catch_up(&self) -> Result<bool, StoreError> {
        let caught_up = self.read_and_apply().await;
        if caught_up.is_err() {
            // Whatever it comes back as.
            self.followed.lock().must_read = true;
        }
        caught_up
    }

    async fn read_and_apply(&self) -> Result<bool, StoreError> {
        let (settled, running) = {
            let followed = self.followed.lock();
            (followed.settled(), followed.revision.clone())
        };
        let is_settled = blocking(&self.store, move |store| {
            let revision = store.revision()?;
            let is_settled = settled.as_ref() == Some(&revision);
            if is_settled && running.as_ref() == Some(&revision) {
                store.confirm(&revision);
            }
            Ok(is_settled)
        });
        if is_settled.await? {
            return Ok(false);
        }
        let coming = blocking(&self.store, Store::follow).await?;
        self.followers
            .end_without_key(|key| self.store.is_valid(key));
        self.host.make_ready(coming.desired).await;
        let _applying = self.turns.to_apply().await;
        // Again, since what was read before the turn may be older than what was applied meanwhile.
        let state = blocking(&self.store, Store::follow).await?;
        let refused = self.host.follow(state.desired.clone()).await.err();
        self.close_apps(&state.apps);
        let is_new = {
            let mut followed = self.followed.lock();
            let seen = followed.seen.replace(state.revision.clone());
            followed.must_read = false;
            followed.problem.clone_from(&refused);
            if refused.is_none() {
                followed.revision = Some(state.revision.clone());
            }
            seen.as_ref() != Some(&state.revision)
        };
        if let Some(refused) = refused {
            tracing::error!(
                rule = %refused.rule, detail = %refused.detail, help = %refused.help,
                "what another node changed cannot be carried out here; what ran before goes on, and it is tried again"
            );
            return Ok(is_new);
        }
        self.open_apps(&state.apps);
        if is_new {
            tracing::info!(
                revision = %state.revision,
                "what the control store says runs"
            );
        }
        self.keep(state).await?;
        Ok(is_new)
    }

    /// What this node runs, as the others see it.
    pub(super) fn own_report(&self) -> Value {
        let followed = self.followed.lock();
        let mut report = json!({
            "name": self.node.name,
            "version": env!("CARGO_PKG_VERSION"),
            "revision": &followed.revision,
            "plugins": self.host.running(),
        });
        if let Some(problem) = &followed.problem {
            report["problem"] = json!(problem.to_string());
        }
        report
    }

    async fn report(&self, pace: &mut Pace) {
        let report = self.own_report();
        let is_due = match &pace.reported {
            Some((at, before)) => *before != report || at.elapsed() >= REPORT,
            None => true,
        };
        if !is_due || self.followed.lock().is_away {
            return;
        }
        let (node, text) = (self.node.uid.clone(), report.to_string());
        match blocking(&self.store, move |store| store.report(&node, &text)).await {
            Ok(()) => pace.reported = Some((Instant::now(), report)),
            // The next look at the store tells of it.
            Err(error) => tracing::debug!(%error, "what this node runs could not be reported"),
        }
    }
}

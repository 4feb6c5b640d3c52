//! What the node does to plugins by itself: it takes back a version that keeps failing.
//!
//! The decision that a version is unfit is the plugin host's; here it takes the same way as an operator's
//! rollback, one change at a time, and is written down with its cause in the name of the node.

use std::sync::Arc;

use tidegate_control::{Activation, Actor, AppName, PluginName, StoreError};

use super::{Admin, blocking, past, problem::Problem};

/// How the node signs what it does by itself.
const ACTOR: &str = "node";

impl Admin {
    /// Makes the version active again that `unfit` replaced, and has it run. `None` when another version is
    /// active by now: somebody was quicker.
    ///
    /// # Errors
    /// A text that says why the unfit version still runs.
    pub async fn return_to_former(
        self: &Arc<Self>,
        app: &AppName,
        plugin: &PluginName,
        unfit: u32,
        cause: &str,
    ) -> Result<Option<Activation>, String> {
        let returned = self.try_return(app, plugin, unfit, cause).await;
        returned.map_err(|problem| problem.to_string())
    }

    async fn try_return(
        &self,
        app: &AppName,
        plugin: &PluginName,
        unfit: u32,
        cause: &str,
    ) -> Result<Option<Activation>, Problem> {
        let actor = Actor {
            who: ACTOR.to_owned(),
            ip: None,
        };
        let _turn = self.turns.of(app).await;
        let (place, name) = (app.clone(), plugin.clone());
        let target = blocking(&self.store, move |store| {
            let active = store.plugin(&place, &name)?.active_version;
            if active != Some(unfit) {
                return Ok::<_, StoreError>(None);
            }
            store.rollback_target(&place, &name).map(Some)
        })
        .await?;
        let Some(target) = target else {
            return Ok(None);
        };
        self.prepare(&actor, (app, plugin), &target, "plugin.return")
            .await?;
        let (name, cause) = (plugin.clone(), cause.to_owned());
        let past = past::of(&*self.host, (app, plugin), unfit, None);
        self.change(&actor, app, move |store, actor, app| {
            store.return_to_former(actor, app, &name, unfit, (&cause, &past))
        })
        .await
    }
}

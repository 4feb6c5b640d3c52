//! `context`: facts about the call in hand, looked up only when asked for.

use tidegate_realtime::hooks::{Origin, Peer, TokenCheck};

use crate::{
    failure::GuestFault,
    generated::tidegate::plugin::context::{Host, OriginKind},
    guest::{Facts, GuestState},
    stories,
};

impl GuestState {
    /// Counts the host call and makes sure that there is a call to speak of.
    fn facts(&mut self) -> wasmtime::Result<&Facts> {
        self.call.enter_host()?;
        match &self.call.facts {
            Facts::Idle => Err(GuestFault::limit(
                "context was asked outside a call: an initialiser cannot know any",
            )
            .into()),
            facts => Ok(facts),
        }
    }

    /// A fact of the session; absent where there is none.
    fn of_peer<T>(&mut self, fact: impl FnOnce(&Peer) -> Option<T>) -> wasmtime::Result<Option<T>> {
        Ok(self.facts()?.peer().and_then(|peer| fact(peer)))
    }
}

/// Text where empty means absent.
fn present(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

impl Host for GuestState {
    fn app(&mut self) -> wasmtime::Result<String> {
        self.call.enter_host()?;
        Ok(self.unit.app.as_str().to_owned())
    }

    fn version(&mut self) -> wasmtime::Result<u32> {
        self.call.enter_host()?;
        Ok(self.unit.version)
    }

    fn trace_id(&mut self) -> wasmtime::Result<String> {
        self.facts()?;
        self.call.is_story_wanted = true;
        let id = self.call.trace_id.get_or_insert_with(stories::new_trace_id);
        Ok(id.as_ref().to_owned())
    }

    fn origin(&mut self) -> wasmtime::Result<OriginKind> {
        Ok(match self.facts()? {
            Facts::Message { origin, .. } => match origin {
                Some(Origin::Client(_)) => OriginKind::Client,
                Some(Origin::ServerApi) => OriginKind::ServerApi,
                Some(Origin::Plugin) => OriginKind::Plugin,
                None => {
                    return Err(GuestFault::limit(
                        "context was asked where the plugin was given no sender",
                    )
                    .into());
                }
            },
            Facts::Alone { .. } => OriginKind::Plugin,
            Facts::Idle | Facts::Authentication { .. } | Facts::Session { .. } => {
                OriginKind::Client
            }
        })
    }

    fn user(&mut self) -> wasmtime::Result<Option<String>> {
        self.of_peer(|peer| Some(peer.user.as_ref().to_owned()))
    }

    fn client_id(&mut self) -> wasmtime::Result<Option<String>> {
        self.of_peer(|peer| Some(peer.client.to_string()))
    }

    fn transport(&mut self) -> wasmtime::Result<Option<String>> {
        self.of_peer(|peer| Some(peer.transport.to_owned()))
    }

    fn client_name(&mut self) -> wasmtime::Result<Option<String>> {
        self.of_peer(|peer| present(&peer.name))
    }

    fn client_version(&mut self) -> wasmtime::Result<Option<String>> {
        self.of_peer(|peer| present(&peer.version))
    }

    fn remote_address(&mut self) -> wasmtime::Result<Option<String>> {
        self.of_peer(|peer| present(&peer.remote_addr))
    }

    fn header(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        self.of_peer(|peer| {
            let mut headers = peer.headers.iter();
            headers
                .find(|(key, _)| key.as_ref() == name)
                .map(|(_, value)| value.as_ref().to_owned())
        })
    }

    fn claims(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(match self.facts()? {
            Facts::Authentication {
                token_check: TokenCheck::Valid { claims },
                ..
            } => Some(claims.as_ref().to_owned()),
            _ => None,
        })
    }

    fn token_error(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(match self.facts()? {
            Facts::Authentication { token_check, .. } => match token_check {
                TokenCheck::Absent => Some("absent".to_owned()),
                TokenCheck::Expired => Some("expired".to_owned()),
                TokenCheck::Invalid => Some("invalid".to_owned()),
                TokenCheck::NotConfigured | TokenCheck::Valid { .. } => None,
            },
            Facts::Idle | Facts::Session { .. } | Facts::Message { .. } | Facts::Alone { .. } => {
                None
            }
        })
    }

    fn meta(&mut self) -> wasmtime::Result<Option<Vec<u8>>> {
        self.of_peer(|peer| (!peer.meta.is_empty()).then(|| peer.meta.to_vec()))
    }

    fn info(&mut self) -> wasmtime::Result<Option<Vec<u8>>> {
        self.of_peer(|peer| (!peer.info.is_empty()).then(|| peer.info.to_vec()))
    }

    fn tag(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        self.facts()?;
        let changed = self
            .call
            .edits
            .as_ref()
            .and_then(|edits| edits.tags.as_ref());
        let tags = match (changed, &self.call.facts) {
            (Some(tags), _) | (None, Facts::Message { tags, .. }) => tags,
            (
                None,
                Facts::Idle
                | Facts::Authentication { .. }
                | Facts::Session { .. }
                | Facts::Alone { .. },
            ) => return Ok(None),
        };
        Ok(tags
            .iter()
            .find(|(name, _)| name.as_ref() == key)
            .map(|(_, value)| value.as_ref().to_owned()))
    }

    fn hops(&mut self) -> wasmtime::Result<u32> {
        Ok(u32::from(self.facts()?.hops()))
    }
}

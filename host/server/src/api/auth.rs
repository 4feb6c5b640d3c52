//! Who calls: from the presented key to the app (threat model A8).

use std::{fmt, sync::Arc};

use axum::http::{HeaderMap, header, request};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use tidegate_control::{KeyRole, Store, Verified};
use tidegate_realtime::{ids::AppId, notices::Notices};

use super::call::Method;
use crate::transport::address::ClientAddress;

const KEY_HEADER: &str = "x-api-key";

/// Scheme of the `Authorization` header, compared without case.
const SCHEME: &str = "apikey";

/// A key that the configuration file owns; allows every method in its app. Kept as a hash.
pub struct ConfiguredKey {
    app: AppId,
    hash: [u8; 32],
}

/// All keys that open the server API.
pub(super) struct Keys {
    store: Arc<Store>,
    configured: Vec<ConfiguredKey>,
    is_insecure: bool,
    notices: Notices,
}

/// Whose request it is and what it may do.
pub(super) struct Caller {
    pub(super) app: AppId,
    /// `None` for keys without a list of methods.
    narrowed: Option<Arc<Verified>>,
}

impl ConfiguredKey {
    pub fn new(app: AppId, secret: &str) -> Self {
        Self {
            app,
            hash: Sha256::digest(secret.as_bytes()).into(),
        }
    }
}

impl fmt::Debug for ConfiguredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfiguredKey")
            .field("app", &self.app)
            .finish_non_exhaustive()
    }
}

impl Keys {
    pub(super) fn new(
        store: Arc<Store>,
        configured: Vec<ConfiguredKey>,
        is_insecure: bool,
    ) -> Self {
        Self {
            store,
            configured,
            is_insecure,
            notices: Notices::default(),
        }
    }

    /// The first place in which a key is presented decides; the others are not tried.
    pub(super) fn authenticate(&self, parts: &request::Parts) -> Option<Caller> {
        let query;
        let presented = match in_headers(&parts.headers) {
            Some(presented) => Some(presented),
            None => {
                query = in_query(parts.uri.query().unwrap_or_default());
                query.as_deref()
            }
        };
        let presented = presented.filter(|key| !key.is_empty());
        let caller = presented.and_then(|key| self.lookup(key)).or_else(|| {
            self.is_insecure.then(|| Caller {
                app: AppId::default_app(),
                narrowed: None,
            })
        });
        if caller.is_none() {
            self.note(parts, presented.is_some());
        }
        caller
    }

    /// Tells the operator, now and then, of calls that a back end makes in vain.
    fn note(&self, parts: &request::Parts, has_key: bool) {
        let reason = if has_key {
            "api_key_wrong"
        } else {
            "api_key_absent"
        };
        let Some(suppressed) = self.notices.due(reason) else {
            return;
        };
        let address = parts.extensions.get::<ClientAddress>();
        let address = address.map(|address| address.client.to_string());
        tracing::info!(
            client.addr = address,
            reason,
            suppressed,
            hint = "send a key of the app in X-API-Key; `tidegate app keys` makes one",
            "a call of the server API was refused"
        );
    }

    fn lookup(&self, presented: &str) -> Option<Caller> {
        if !self.configured.is_empty() {
            let hash: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
            let found = self
                .configured
                .iter()
                .find(|key| bool::from(key.hash.ct_eq(&hash)));
            if let Some(key) = found {
                return Some(Caller {
                    app: key.app.clone(),
                    narrowed: None,
                });
            }
        }
        let verified = self.store.verify(presented)?;
        if verified.role != KeyRole::Api {
            return None;
        }
        Some(Caller {
            app: AppId::parse(verified.app.as_ref()?.as_str()).ok()?,
            narrowed: (!verified.methods.is_empty()).then_some(verified),
        })
    }
}

impl Caller {
    pub(super) fn may(&self, method: Method) -> bool {
        self.narrowed.as_ref().is_none_or(|verified| {
            verified
                .methods
                .iter()
                .any(|allowed| **allowed == *method.name())
        })
    }
}

/// A header that is present and not text counts as a wrong key, not as an absent one.
fn in_headers(headers: &HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get(KEY_HEADER) {
        return Some(key.to_str().unwrap_or_default());
    }
    let (scheme, key) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| key.trim())
}

fn in_query(query: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let value = pair.strip_prefix("api_key=")?;
        let value = percent_encoding::percent_decode_str(value).decode_utf8();
        Some(value.unwrap_or_default().into_owned())
    })
}

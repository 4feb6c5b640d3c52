//! The claims of a connection token and what they mean (client-protocol section 13.1).

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::value::RawValue;

use super::{Fault, LEEWAY_SECONDS, TokenConfig, TokenError, json::Members};
use crate::hooks::{Grant, ServerSubscription};

/// What a good token says.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    /// Empty: anonymous.
    pub user: Arc<str>,
    /// When the connection ends unless refreshed, in unix seconds.
    pub expires_at: Option<u64>,
    /// JSON, or any bytes by `b64info`; empty when none.
    pub info: Bytes,
    /// JSON object for hooks; empty when none.
    pub meta: Bytes,
    pub subscriptions: Vec<TokenSubscription>,
    /// The claims as they were signed, for the authentication hook.
    pub text: Arc<str>,
    exp: Option<u64>,
    nbf: Option<u64>,
}

/// A server-side subscription of a token.
pub type TokenSubscription = ServerSubscription;

impl Claims {
    pub(super) fn read(text: &str, config: &TokenConfig) -> Result<Self, Fault> {
        let members = Members::parse(text)?;
        if members.has("channel") {
            return Err(Fault::SubscriptionToken);
        }
        check_audience(&members, config)?;
        let issuer = members.text("iss")?;
        if let Some(rule) = &config.issuer
            && !issuer.as_deref().is_some_and(|issuer| rule.accepts(issuer))
        {
            return Err(Fault::Issuer);
        }
        members.seconds("iat")?;
        members.text("jti")?;
        let subject = members.text("sub")?;
        let user = match config.user_id_claim.as_deref() {
            None => subject,
            Some(claim) => members.text(claim)?,
        };
        let exp = members.seconds("exp")?;
        let expires_at = match members.typed::<i64>("expire_at")? {
            None => exp,
            Some(at) => u64::try_from(at).ok().filter(|at| *at > 0),
        };
        Ok(Self {
            user: user.unwrap_or_default().into(),
            expires_at,
            info: bytes_of(&members, "info", "b64info")?,
            meta: meta(&members)?,
            subscriptions: subscriptions(&members)?,
            text: text.into(),
            exp,
            nbf: members.seconds("nbf")?,
        })
    }

    /// Whether the token is good at `now`, give or take the leeway.
    pub(super) fn check_times(&self, now: u64, require_exp: bool) -> Result<(), TokenError> {
        if require_exp && self.exp.is_none() {
            return Err(Fault::Claim.into());
        }
        let is_over = self
            .exp
            .is_some_and(|exp| exp.saturating_add(LEEWAY_SECONDS) < now);
        let is_early = self
            .nbf
            .is_some_and(|nbf| nbf > now.saturating_add(LEEWAY_SECONDS));
        if is_over || is_early {
            return Err(TokenError::Expired);
        }
        Ok(())
    }
}

/// `aud` is one text or a list of texts; where the app sets a rule, one of them must keep it.
fn check_audience(members: &Members<'_>, config: &TokenConfig) -> Result<(), Fault> {
    let audiences = match members.raw("aud") {
        None => Vec::new(),
        Some(text) if text.starts_with('[') => members.typed("aud")?.unwrap_or_default(),
        Some(_) => members.text("aud")?.into_iter().collect::<Vec<String>>(),
    };
    match &config.audience {
        Some(rule) if !audiences.iter().any(|audience| rule.accepts(audience)) => {
            Err(Fault::Audience)
        }
        _ => Ok(()),
    }
}

fn meta(members: &Members<'_>) -> Result<Bytes, Fault> {
    match members.raw("meta") {
        None | Some("null") => Ok(Bytes::new()),
        Some(text) if text.starts_with('{') => Ok(Bytes::copy_from_slice(text.as_bytes())),
        Some(_) => Err(Fault::Claim),
    }
}

/// A JSON member, or the bytes of its base64 twin, which wins.
fn bytes_of(members: &Members<'_>, json: &str, base64: &str) -> Result<Bytes, Fault> {
    if let Some(text) = members.text(base64)?.filter(|text| !text.is_empty()) {
        return STANDARD
            .decode(text)
            .map(Bytes::from)
            .map_err(|_| Fault::Claim);
    }
    Ok(match members.raw(json) {
        None | Some("null") => Bytes::new(),
        Some(text) => Bytes::copy_from_slice(text.as_bytes()),
    })
}

fn subscriptions(members: &Members<'_>) -> Result<Vec<TokenSubscription>, Fault> {
    let channels = members.typed::<Vec<String>>("channels")?;
    let Some(subs) = members.typed::<BTreeMap<String, &RawValue>>("subs")? else {
        let plain = |channel: String| TokenSubscription {
            channel: channel.into(),
            grant: Grant::default(),
        };
        return Ok(channels
            .unwrap_or_default()
            .into_iter()
            .map(plain)
            .collect());
    };
    subs.into_iter()
        .map(|(channel, options)| {
            Ok(TokenSubscription {
                channel: channel.into(),
                grant: grant(&Members::parse(options.get())?)?,
            })
        })
        .collect()
}

fn grant(options: &Members<'_>) -> Result<Grant, Fault> {
    let mut grant = Grant {
        info: bytes_of(options, "info", "b64info")?,
        data: bytes_of(options, "data", "b64data")?,
        ..Grant::default()
    };
    let Some(overrides) = options.object("override")? else {
        return Ok(grant);
    };
    for name in overrides.names() {
        let Some(option) = overrides.object(name)? else {
            continue;
        };
        let value = option.typed::<bool>("value")?;
        match name {
            "presence" => grant.presence = value,
            "join_leave" => grant.join_leave = value,
            "force_push_join_leave" => grant.force_push_join_leave = value,
            "force_positioning" => grant.force_positioning = value,
            "force_recovery" => grant.force_recovery = value,
            _ => {}
        }
    }
    Ok(grant)
}

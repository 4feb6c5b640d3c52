//! The registry of wire codes: errors, disconnects, unsubscribes, and the server API's errors.
//!
//! Owns every number a client or a backend may see, with its text. Deployed clients hard-code them: a code is
//! never reused and never changes its range. `docs/codes.md` shows the same table and a test compares the two.
//! Ranges: errors 100–399 are ours, 400–1999 a plugin's; disconnects 3000–3499 and 4000–4499 make clients
//! reconnect, 3500–3999 and 4500–4999 are terminal, 4000–4999 are a plugin's or the API's; unsubscribes below
//! 2500 are final, from 2500 on clients subscribe again.

use std::fmt;

use crate::messages::{Disconnect, Error, Unsubscribe};

macro_rules! registry {
    (
        $(#[$attribute:meta])*
        $name:ident {
            $( $(#[$entry_attribute:meta])* $variant:ident = $code:literal, $text:literal; )*
        }
    ) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $( $(#[$entry_attribute])* $variant, )*
        }

        impl $name {
            /// Every entry, in the order of the codes.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The number on the wire.
            pub const fn code(self) -> u32 {
                match self { $(Self::$variant => $code,)* }
            }

            /// The text on the wire.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The entry with this number.
            pub const fn from_code(code: u32) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} ({})", self.text(), self.code())
            }
        }
    };
}

registry! {
    /// An error in a reply to a command: the connection goes on.
    ErrorCode {
        Internal = 100, "internal server error";
        Unauthorized = 101, "unauthorized";
        UnknownChannel = 102, "unknown channel";
        PermissionDenied = 103, "permission denied";
        MethodNotFound = 104, "method not found";
        AlreadySubscribed = 105, "already subscribed";
        LimitExceeded = 106, "limit exceeded";
        BadRequest = 107, "bad request";
        NotAvailable = 108, "not available";
        TokenExpired = 109, "token expired";
        Expired = 110, "expired";
        TooManyRequests = 111, "too many requests";
        UnrecoverablePosition = 112, "unrecoverable position";
        ConcurrentPagination = 113, "concurrent pagination";
    }
}

registry! {
    /// Why the server closes a connection: code and reason of the close frame.
    DisconnectCode {
        ConnectionClosed = 3000, "connection closed";
        Shutdown = 3001, "shutdown";
        ServerError = 3004, "internal server error";
        Expired = 3005, "connection expired";
        SubscriptionExpired = 3006, "subscription expired";
        Slow = 3008, "slow";
        WriteError = 3009, "write error";
        InsufficientState = 3010, "insufficient state";
        ForceReconnect = 3011, "force reconnect";
        NoPong = 3012, "no pong";
        TooManyRequests = 3013, "too many requests";
        StateInvalidated = 3014, "state invalidated";
        InvalidToken = 3500, "invalid token";
        BadRequest = 3501, "bad request";
        Stale = 3502, "stale";
        ForceNoReconnect = 3503, "force disconnect";
        ConnectionLimit = 3504, "connection limit";
        ChannelLimit = 3505, "channel limit";
        InappropriateProtocol = 3506, "inappropriate protocol";
        PermissionDenied = 3507, "permission denied";
        NotAvailable = 3508, "not available";
        TooManyErrors = 3509, "too many errors";
    }
}

registry! {
    /// Why the server ended a subscription.
    UnsubscribeCode {
        /// Inside the server only.
        Client = 0, "client unsubscribed";
        /// Inside the server only.
        Disconnected = 1, "client disconnected";
        Server = 2000, "server unsubscribe";
        InsufficientState = 2500, "insufficient state";
        Expired = 2501, "subscription expired";
        StateInvalidated = 2502, "state invalidated";
    }
}

registry! {
    /// An error of the server HTTP API.
    ApiErrorCode {
        Internal = 100, "internal server error";
        UnknownChannel = 102, "unknown channel";
        NotFound = 104, "not found";
        BadRequest = 107, "bad request";
        NotAvailable = 108, "not available";
        UnrecoverablePosition = 112, "unrecoverable position";
        Conflict = 113, "conflict";
    }
}

/// Error codes that plugins may choose.
pub const PLUGIN_ERROR_CODES: std::ops::RangeInclusive<u32> = 400..=1999;

/// Disconnect codes that plugins and the server API may choose.
pub const CUSTOM_DISCONNECT_CODES: std::ops::RangeInclusive<u32> = 4000..=4999;

/// Longest reason of a close frame: 125 bytes of payload less two of code.
pub const MAX_CLOSE_REASON_BYTES: usize = 123;

/// Close codes of RFC 6455 that this server sends itself.
pub mod close {
    pub const NORMAL: u16 = 1000;
    /// A frame broke the protocol.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// Text that is not UTF-8.
    pub const INVALID_DATA: u16 = 1007;
    /// A flood of fragments.
    pub const POLICY: u16 = 1008;
    /// A message or frame above the limit; client libraries treat it as terminal.
    pub const TOO_BIG: u16 = 1009;
}

impl ErrorCode {
    /// Whether the same command may succeed later.
    pub const fn is_temporary(self) -> bool {
        matches!(
            self,
            Self::Internal | Self::TooManyRequests | Self::ConcurrentPagination
        )
    }

    pub fn to_error(self) -> Error {
        Error {
            code: self.code(),
            message: self.text().to_owned(),
            temporary: self.is_temporary(),
        }
    }
}

impl From<ErrorCode> for Error {
    fn from(code: ErrorCode) -> Self {
        code.to_error()
    }
}

/// Whether client libraries reconnect after a close with this code, ours or a custom one. Transport codes below
/// 3000 count as a broken connection, except "too big".
pub const fn is_reconnect_code(code: u32) -> bool {
    !matches!(code, 1009 | 3500..=3999 | 4500..=4999)
}

impl DisconnectCode {
    pub const fn is_reconnect(self) -> bool {
        is_reconnect_code(self.code())
    }

    pub fn to_disconnect(self) -> Disconnect {
        Disconnect {
            code: self.code(),
            reason: self.text().to_owned(),
            reconnect: self.is_reconnect(),
        }
    }

    /// What a unidirectional connection gets, which cannot be sent an error reply to its connect.
    pub const fn from_connect_error(code: u32) -> Self {
        match code {
            103 => Self::PermissionDenied,
            109 | 110 => Self::Expired,
            111 => Self::TooManyRequests,
            _ => Self::ServerError,
        }
    }
}

impl From<DisconnectCode> for Disconnect {
    fn from(code: DisconnectCode) -> Self {
        code.to_disconnect()
    }
}

impl UnsubscribeCode {
    /// Whether clients subscribe again.
    pub const fn is_resubscribe(self) -> bool {
        self.code() >= 2500
    }

    pub fn to_unsubscribe(self) -> Unsubscribe {
        Unsubscribe {
            code: self.code(),
            reason: self.text().to_owned(),
        }
    }
}

impl From<UnsubscribeCode> for Unsubscribe {
    fn from(code: UnsubscribeCode) -> Self {
        code.to_unsubscribe()
    }
}

impl ApiErrorCode {
    /// Status in the transport error mode.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Internal => 500,
            Self::UnknownChannel | Self::NotFound => 404,
            Self::BadRequest | Self::NotAvailable => 400,
            Self::UnrecoverablePosition => 416,
            Self::Conflict => 409,
        }
    }
}

/// `reason`, cut at a character boundary to what a close frame can carry.
pub fn close_reason(reason: &str) -> &str {
    let end = reason.floor_char_boundary(MAX_CLOSE_REASON_BYTES);
    &reason[..end]
}

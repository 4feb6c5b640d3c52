//! From one table of fields to a struct and its two codecs.

use bytes::Bytes;

/// Declares message structs: `number[, always] => name: Type`. `always` members are present in JSON even when
/// zero.
macro_rules! messages {
    ($(
        $(#[$message_attribute:meta])*
        struct $message:ident {
            $(
                $(#[$field_attribute:meta])*
                $number:literal $(, $always:ident)? => $field:ident: $kind:ty,
            )*
        }
    )*) => {$(
        $(#[$message_attribute])*
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct $message {
            $(
                $(#[$field_attribute])*
                pub $field: $kind,
            )*
        }
    )*};
}
pub(crate) use messages;

/// A signed integer that Protobuf writes in zig-zag form (`sint64`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ZigZag(pub i64);

/// Bytes that JSON carries as a string and Protobuf as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextBytes(pub Bytes);

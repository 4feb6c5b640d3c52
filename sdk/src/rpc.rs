//! `rpc`: answering what a client asks.

use serde::{Deserialize, Serialize};

use crate::{JsonError, Refusal, bindings::rpc::exports::tidegate::plugin::rpc as wit, panics};

/// Asked for a client's RPC whose method the binding covers.
///
/// ```
/// use tidegate_sdk::{Refusal, Rpc, plugin, rpc::{Request, Verdict}, testing::Host};
///
/// struct Sum;
///
/// impl Rpc for Sum {
///     fn call(request: Request) -> Result<Verdict, Refusal> {
///         if request.method() != "sum" {
///             return Ok(Verdict::NotMine);
///         }
///         let numbers: Vec<i64> = request.json()?;
///         Verdict::json(&numbers.iter().sum::<i64>())
///     }
/// }
///
/// plugin!(Sum: rpc);
///
/// let mut host = Host::new();
/// assert_eq!(host.call::<Sum>("sum", "[1,2,3]").unwrap(), Verdict::Reply(b"6".to_vec()));
/// assert_eq!(host.call::<Sum>("product", "[1,2,3]").unwrap(), Verdict::NotMine);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is listed with the hook `rpc` but does not implement `Rpc`",
    label = "needs `impl tidegate_sdk::Rpc for {Self}`",
    note = "write `fn call(request: rpc::Request) -> Result<rpc::Verdict, Refusal>` in it, or take `rpc` out of `plugin!`"
)]
pub trait Rpc {
    /// Answers one request.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] is what the client gets instead of a reply.
    fn call(request: Request) -> Result<Verdict, Refusal>;
}

/// What a client asks.
#[derive(Debug)]
pub struct Request {
    method: String,
    user: String,
    data: Vec<u8>,
}

impl Request {
    pub(crate) fn new(method: String, user: String, data: Vec<u8>) -> Self {
        Self { method, user, data }
    }

    /// The method's name.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Who asks; empty for an anonymous client.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The parameters, as the client sent them.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The parameters as an owned buffer.
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// Reads the parameters as JSON.
    ///
    /// # Errors
    ///
    /// When they are not a `T`; with `?` the client gets error 400 and is told what is wrong and where.
    pub fn json<'r, T: Deserialize<'r>>(&'r self) -> Result<T, JsonError> {
        JsonError::parse("data", &self.data)
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The plugin does not know the method. The next one is asked; if nobody knows it, the client gets error 104.
    NotMine,
    /// The data of the reply; empty for none.
    Reply(Vec<u8>),
}

impl Verdict {
    /// Replies with `value` as JSON.
    ///
    /// # Errors
    ///
    /// When `value` cannot be written as JSON, such as a map whose keys are not text.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, Refusal> {
        Ok(Self::Reply(JsonError::print("the reply", value)?))
    }
}

impl<P: Rpc> wit::Guest for P {
    fn call(method: String, user: String, data: Vec<u8>) -> wit::Verdict {
        panics::report();
        match P::call(Request::new(method, user, data)) {
            Ok(Verdict::NotMine) => wit::Verdict::NotMine,
            Ok(Verdict::Reply(data)) => wit::Verdict::Reply(data),
            Err(refusal) => wit::Verdict::Refuse(refusal.into()),
        }
    }
}

refusal_record!(wit);

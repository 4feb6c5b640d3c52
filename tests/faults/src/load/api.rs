//! The server API as a back end of an application calls it: one connection, one call at a time, no retries.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

/// Longest wait for an answer: the server's own bound on a call of its store is five seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest wait for the readiness of a node; who does not answer is not ready.
const HEALTH_PATIENCE: Duration = Duration::from_secs(2);

/// A client of the server API.
#[derive(Debug)]
pub struct Api {
    client: Client<HttpConnector, Full<Bytes>>,
}

/// What came of a call.
#[derive(Debug, Clone)]
pub enum Answer {
    Result(Value),
    Error {
        code: u32,
    },
    /// An HTTP status other than 200.
    Status(u16),
    /// Nobody listened: the call was not sent.
    NotSent,
    /// Sent, and no answer came.
    Nothing,
}

impl Default for Api {
    fn default() -> Self {
        Self::new()
    }
}

impl Api {
    pub fn new() -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(1)
            // Every attempt is written down, so none may be made in secret.
            .retry_canceled_requests(false)
            .build_http();
        Self { client }
    }

    /// Calls a method.
    pub async fn call(&mut self, addr: SocketAddr, method: &str, body: &Value) -> Answer {
        let uri = format!("http://{addr}/api/{method}");
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header("Content-Type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .expect("the request is valid");
        let call = async {
            let response = match self.client.request(request).await {
                Ok(response) => response,
                Err(error) if error.is_connect() => return Answer::NotSent,
                Err(_) => return Answer::Nothing,
            };
            if response.status() != StatusCode::OK {
                return Answer::Status(response.status().as_u16());
            }
            let Ok(body) = response.into_body().collect().await else {
                return Answer::Nothing;
            };
            let mut json: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
            match json["error"]["code"].as_u64() {
                Some(code) => Answer::Error {
                    code: u32::try_from(code).unwrap_or(u32::MAX),
                },
                None => Answer::Result(json["result"].take()),
            }
        };
        tokio::time::timeout(PATIENCE, call)
            .await
            .unwrap_or(Answer::Nothing)
    }

    /// Calls a method that must succeed.
    ///
    /// # Errors
    /// It does not.
    pub async fn result(&mut self, addr: SocketAddr, method: &str, body: &Value) -> Result<Value> {
        match self.call(addr, method, body).await {
            Answer::Result(result) => Ok(result),
            other => bail!("{method} {body} at {addr}: {other:?}"),
        }
    }

    /// Whether the node says that it is ready.
    pub async fn is_ready(&mut self, addr: SocketAddr) -> bool {
        self.get(addr, "/health/ready").await.is_some()
    }

    /// The body of a page that answers with 200 in time.
    pub async fn get(&mut self, addr: SocketAddr, path: &str) -> Option<Bytes> {
        let request = Request::builder()
            .uri(format!("http://{addr}{path}"))
            .body(Full::default())
            .expect("the request is valid");
        let call = async {
            let response = self.client.request(request).await.ok()?;
            let is_ok = response.status() == StatusCode::OK;
            let body = response.into_body().collect().await.ok()?;
            is_ok.then(|| body.to_bytes())
        };
        tokio::time::timeout(HEALTH_PATIENCE, call).await.ok()?
    }
}

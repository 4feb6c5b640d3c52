//! A small HTTP client for the server API and the admin API.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

/// Requests to one address with fixed headers.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    addr: String,
    headers: Vec<(String, String)>,
    /// Longest wait for an answer.
    patience: Duration,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; `null` when it is not.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Http {
    pub fn new(addr: &str) -> Self {
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            addr: addr.to_owned(),
            headers: Vec::new(),
            patience: crate::SOON,
        }
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Waits longer for answers than usual: for what is much work on a busy machine.
    #[must_use]
    pub fn patient(mut self) -> Self {
        self.patience = 10 * crate::SOON;
        self
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.addr))
            .header("Content-Type", content_type);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request
            .body(Full::new(body.into()))
            .expect("the test builds a valid request");
        let response = tokio::time::timeout(self.patience, self.client.request(request))
            .await
            .unwrap_or_else(|_| panic!("no answer to {path} within {:?}", self.patience))
            .expect("the node answers");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await;
        Answer {
            status,
            body: body.expect("the body arrives whole").to_bytes(),
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "application/json", Bytes::new())
            .await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, "application/json", body.to_string())
            .await
    }

    /// A call of the server API: the content of `result`.
    ///
    /// # Panics
    /// When the answer is not a result.
    pub async fn call(&self, method: &str, body: &Value) -> Value {
        let answer = self.post(&format!("/api/{method}"), body).await;
        let mut json = answer.json();
        assert!(
            json["result"].is_object(),
            "{method} answered {} {json}",
            answer.status
        );
        json["result"].take()
    }
}

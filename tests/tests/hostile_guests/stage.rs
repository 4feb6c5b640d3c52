//! An app for one guest: made, used by its clients, taken away.

use hyper::Method;
use serde_json::{Value, json};
use tidegate_protocol::{Codec, Command};
use tidegate_sandbox::Hook;
use tidegate_tests::{
    Client, Node,
    api::{Answer, Http},
    client::with_token,
    token::{mint_with, unix_time},
    within,
};

const ROOM: &str = "open:room";

/// What a client sees of a question.
pub(crate) enum Seen {
    Fine,
    /// Error 100 with this trace id.
    Failed(String),
    /// Something else: what it says.
    Other(String),
}

pub(crate) struct Stage<'a> {
    pub(crate) node: &'a Node,
    app: String,
    token_secret: String,
    admin: Http,
}

impl<'a> Stage<'a> {
    pub(crate) async fn open(node: &'a Node, app: &str) -> Self {
        let admin = node.admin().patient();
        let made = admin.post("/admin/v1/apps", &json!({ "name": app })).await;
        let made_app = made.json();
        let secret = made_app["token_secret"].as_str();
        Self {
            node,
            app: app.to_owned(),
            token_secret: secret
                .unwrap_or_else(|| panic!("no app {app}: {made_app}"))
                .to_owned(),
            admin,
        }
    }

    /// Takes the app away with everything in it, its clients included.
    pub(crate) async fn close(self) {
        let path = format!("/admin/v1/apps/{}", self.app);
        let gone = self.request(Method::DELETE, &path, &Value::Null).await;
        assert!(gone.status < 300, "{}", gone.json());
    }

    async fn request(&self, method: Method, path: &str, body: &Value) -> Answer {
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        self.admin
            .send(method, path, "application/json", body)
            .await
    }

    fn path(&self, rest: &str) -> String {
        format!("/admin/v1/apps/{}/{rest}", self.app)
    }

    pub(crate) async fn upload(&self, plugin: &str, wasm: Vec<u8>) -> Answer {
        let path = self.path(&format!("plugins/{plugin}/versions"));
        self.admin
            .send(Method::POST, &path, "application/wasm", wasm)
            .await
    }

    pub(crate) async fn plugin(&self, plugin: &str) -> Answer {
        self.admin
            .get(&self.path(&format!("plugins/{plugin}")))
            .await
    }

    /// Activates the first version of a plugin and binds it in the whole app; the binding's id.
    pub(crate) async fn bind(&self, plugin: &str, hook: Hook) -> String {
        let path = self.path(&format!("plugins/{plugin}/activate"));
        let active = self.admin.post(&path, &json!({ "version": 1 })).await;
        assert_eq!(active.status, 200, "{}", active.json());
        let request = json!({ "plugin": plugin, "hook": hook.as_str() });
        let bound = self.admin.post(&self.path("bindings"), &request).await;
        let binding = bound.json();
        assert_eq!(bound.status, 201, "{binding}");
        assert!(binding["problem"].is_null(), "{binding}");
        binding["id"]
            .as_str()
            .expect("a binding has an id")
            .to_owned()
    }

    pub(crate) async fn unbind(&self, binding: &str) {
        let path = self.path(&format!("bindings/{binding}"));
        let gone = self.request(Method::DELETE, &path, &Value::Null).await;
        assert!(gone.status < 300, "{}", gone.json());
    }

    /// A socket of the app, nothing said yet.
    async fn open_socket(&self) -> Client {
        let address = self.node.client_addr();
        let url = format!("ws://{address}/apps/{}/connection/websocket", self.app);
        Client::open_at(&url, Codec::Json).await
    }

    fn token(&self, user: &str) -> String {
        let claims = json!({ "sub": user, "exp": unix_time(600) });
        mint_with(&self.token_secret, &json!({ "alg": "HS256" }), &claims)
    }

    /// A connected client of the app.
    pub(crate) async fn connect(&self, user: &str) -> Client {
        let mut client = self.open_socket().await;
        let reply = client.connect_with(with_token(&self.token(user))).await;
        assert!(reply.connect.is_some(), "{}: {reply:?}", self.app);
        client
    }

    /// A client does what the hook is asked for.
    pub(crate) async fn ask(&self, hook: Hook) -> Seen {
        let data = json!({ "text": "hello" });
        let reply = match hook {
            Hook::Authentication => {
                let mut client = self.open_socket().await;
                let command = Command {
                    connect: Some(Box::new(with_token(&self.token("ann")))),
                    ..Command::default()
                };
                let ids = client.send_commands(vec![command]).await;
                match within("an answer", client.reply_or_close(ids[0])).await {
                    Ok(reply) => reply,
                    Err(closed) => return Seen::Other(format!("{closed:?}")),
                }
            }
            Hook::Authorization => self.connect("ann").await.subscribe(ROOM).await,
            Hook::Filtering | Hook::Routing => self.connect("ann").await.publish(ROOM, &data).await,
            Hook::Rpc => self.connect("ann").await.rpc("method", &data).await,
            Hook::Events | Hook::Schedule => return Seen::Other("no client asks there".to_owned()),
        };
        let Some(error) = &reply.error else {
            return Seen::Fine;
        };
        // An RPC that no plugin took is answered so, as it is without any plugin.
        if hook == Hook::Rpc && error.code == 104 {
            return Seen::Fine;
        }
        let trace = error.message.split_once("trace ");
        match trace {
            Some((_, trace)) if error.code == 100 => {
                Seen::Failed(trace.trim_end_matches(')').to_owned())
            }
            Some(_) | None => Seen::Other(format!("{error:?}")),
        }
    }

    pub(crate) async fn explain(&self, trace: &str) -> Value {
        let told = self.admin.get(&format!("/admin/v1/explain/{trace}")).await;
        told.json()
    }

    /// How often calls at the hook failed so, as the statistics have it.
    pub(crate) async fn failures(&self, hook: Hook, kind: &str) -> u64 {
        let name = format!(
            "tidegate_plugin_calls_total{{app=\"{}\",plugin=\"guest\",hook=\"{hook}\",end=\"{kind}\"}}",
            self.app
        );
        self.node.metrics().await.get(&name)
    }

    /// A good plugin works in the same app as if nothing had happened, and nothing is left that was not to happen.
    pub(crate) async fn is_none_the_worse(&self) {
        let answer = self.upload("good", crate::good()).await;
        assert_eq!(answer.status, 201, "{}", answer.json());
        let binding = self.bind("good", Hook::Filtering).await;
        let mut client = self.connect("bob").await;
        let reply = client.subscribe(ROOM).await;
        assert!(reply.subscribe.is_some(), "{}: {reply:?}", self.app);
        let published = Box::pin(async {
            loop {
                let reply = client.publish(ROOM, &json!("as sent")).await;
                let Some(error) = reply.error else { break };
                // A machine with more to do than it can; anything else would come again.
                assert_eq!(error.code, 100, "{}: {error:?}", self.app);
            }
        });
        within("the good plugin's answer", published).await;
        assert_eq!(client.publication().await.0, "good", "{}", self.app);
        self.unbind(&binding).await;
    }
}

//! Shapes of requests and answers, for the OpenAPI document. Tests hold every answer against them.

use serde_json::{Map, Value, json};

/// Name, required members, optional members. A member is a name and its schema: a JSON type, `[Schema]` for a
/// list, `Schema` for a reference, `any` for any JSON.
type Shape = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [(&'static str, &'static str)],
);

const SHAPES: &[Shape] = &[
    (
        "Problem",
        &[
            ("type", "string"),
            ("title", "string"),
            ("status", "integer"),
            ("code", "string"),
            ("detail", "string"),
        ],
        &[("help", "string"), ("rule", "string"), ("field", "string")],
    ),
    ("Empty", &[], &[]),
    (
        "Status",
        &[
            ("version", "string"),
            ("uptime_seconds", "integer"),
            ("role", "string"),
        ],
        &[("app", "string?")],
    ),
    ("Statistics", &[("plugins", "any")], &[]),
    (
        "Session",
        &[
            ("client", "string"),
            ("user", "string"),
            ("node", "string"),
            ("since_ms", "integer"),
            ("transport", "string"),
            ("name", "string"),
            ("version", "string"),
            ("address", "string"),
        ],
        &[("silent", "boolean")],
    ),
    (
        "RunningPlugin",
        &[
            ("app", "string"),
            ("plugin", "string"),
            ("version", "integer?"),
            ("wanted_version", "integer"),
            ("since", "time"),
        ],
        &[("problem", "string")],
    ),
    (
        "Node",
        &[
            ("node", "string"),
            ("name", "string"),
            ("version", "string"),
            ("revision", "string?"),
            ("is_this", "boolean"),
            ("plugins", "[RunningPlugin]"),
        ],
        &[
            ("reported_at", "time"),
            ("store_heard_seconds_ago", "integer"),
            ("problem", "string"),
        ],
    ),
    (
        "Nodes",
        &[("items", "[Node]")],
        &[("revision", "string"), ("problem", "string")],
    ),
    (
        "Sessions",
        &[
            ("items", "[Session]"),
            ("has_more", "boolean"),
            ("silent_nodes", "[string]"),
        ],
        &[],
    ),
    (
        "HookStatistics",
        &[
            ("plugin", "string"),
            ("version", "integer"),
            ("hook", "string"),
            ("is_bound", "boolean"),
            ("calls", "integer"),
            ("answered", "integer"),
            ("refused", "integer"),
            ("verdicts", "any"),
            ("failures", "integer"),
            ("failed", "any"),
            ("passed_over", "integer"),
            ("breaker", "string"),
            ("breaker_openings", "integer"),
            ("breaker_refusals", "integer"),
            ("lane", "string"),
            ("inline", "integer"),
            ("aside", "integer"),
            ("near_deadline", "integer"),
            ("near_memory", "integer"),
            ("time", "CallTimes"),
            ("memory", "InstanceMemory"),
        ],
        &[],
    ),
    (
        "CallTimes",
        &[
            ("samples", "integer"),
            ("total_ns", "integer"),
            ("mean_ns", "integer"),
            ("p50_ns", "integer"),
            ("p99_ns", "integer"),
            ("p999_ns", "integer"),
            ("max_ns", "integer"),
        ],
        &[],
    ),
    (
        "InstanceMemory",
        &[
            ("instances", "integer"),
            ("bytes", "integer"),
            ("peak_bytes", "integer"),
        ],
        &[],
    ),
    (
        "HookStatisticsList",
        &[("uptime_ms", "integer"), ("items", "[HookStatistics]")],
        &[],
    ),
    (
        "Planned",
        &[
            ("plugin", "string"),
            ("period", "string"),
            ("every_seconds", "integer"),
            ("next_ms", "integer"),
        ],
        &[
            ("last_due_ms", "integer"),
            ("last_outcome", "string"),
            ("last_took_ms", "integer"),
            ("node", "string"),
            ("node_name", "string"),
            ("trace", "string"),
        ],
    ),
    (
        "Schedule",
        &[("items", "[Planned]"), ("silent_nodes", "[string]")],
        &[],
    ),
    (
        "Pipeline",
        &[
            ("hook", "string"),
            ("scope", "string"),
            ("lane", "string"),
            ("deadlines_ms", "integer"),
            ("worst_case_ms", "integer"),
            ("plugins", "[PipelineStep]"),
        ],
        &[],
    ),
    (
        "PipelineStep",
        &[
            ("plugin", "string"),
            ("version", "integer"),
            ("scope", "string"),
            ("failure_policy", "string"),
            ("isolation", "string"),
            ("lane", "string"),
            ("breaker", "string"),
            ("deadline_ms", "integer"),
        ],
        &[],
    ),
    (
        "Pipelines",
        &[("items", "[Pipeline]")],
        &[("warnings", "[string]")],
    ),
    ("App", &[("name", "string"), ("created_at", "time")], &[]),
    ("Apps", &[("items", "[App]")], &[]),
    ("AppRequest", &[("name", "string")], &[]),
    (
        "NewApp",
        &[
            ("name", "string"),
            ("created_at", "time"),
            ("token_secret", "string"),
        ],
        &[],
    ),
    (
        "Story",
        &[("trace", "string"), ("app", "string"), ("story", "any")],
        &[],
    ),
    ("Stories", &[("items", "[Story]")], &[]),
    (
        "AuditEntry",
        &[
            ("id", "integer"),
            ("at", "time"),
            ("who", "string"),
            ("action", "string"),
            ("object", "string"),
            ("result", "string"),
        ],
        &[
            ("ip", "string"),
            ("app", "string"),
            ("old", "string"),
            ("new", "string"),
        ],
    ),
    (
        "AuditEntries",
        &[("items", "[AuditEntry]")],
        &[("next", "integer?")],
    ),
    (
        "Plugin",
        &[
            ("app", "string"),
            ("name", "string"),
            ("created_at", "time"),
            ("newest_version", "integer"),
            ("bindings", "integer"),
        ],
        &[("active_version", "integer")],
    ),
    ("Plugins", &[("items", "[Plugin]")], &[("next", "string?")]),
    (
        "PluginDetails",
        &[
            ("app", "string"),
            ("name", "string"),
            ("created_at", "time"),
            ("newest_version", "integer"),
            ("bindings", "integer"),
            ("versions", "[Version]"),
            ("bindings_list", "[Binding]"),
        ],
        &[("active_version", "integer")],
    ),
    (
        "Version",
        &[
            ("number", "integer"),
            ("digest", "string"),
            ("size", "integer"),
            ("hooks", "[string]"),
            ("imports", "[string]"),
            ("note", "string"),
            ("created_at", "time"),
            ("is_active", "boolean"),
        ],
        &[],
    ),
    (
        "UploadedVersion",
        &[
            ("plugin", "string"),
            ("number", "integer"),
            ("digest", "string"),
            ("size", "integer"),
            ("hooks", "[string]"),
            ("imports", "[string]"),
            ("note", "string"),
            ("created_at", "time"),
            ("is_active", "boolean"),
            ("is_new", "boolean"),
        ],
        &[],
    ),
    (
        "Versions",
        &[("items", "[Version]")],
        &[("next", "integer?")],
    ),
    (
        "LogItem",
        &[("event", "string")],
        &[
            ("number", "integer"),
            ("at", "time"),
            ("level", "string"),
            ("from", "string"),
            ("failure", "string"),
            ("plugin", "string"),
            ("version", "integer"),
            ("hook", "string"),
            ("user", "string"),
            ("client", "string"),
            ("channel", "string"),
            ("method", "string"),
            ("trace", "string"),
            ("message", "string"),
            ("count", "integer"),
            ("reason", "string"),
        ],
    ),
    ("LogItems", &[("items", "[LogItem]")], &[]),
    ("ActivateRequest", &[("version", "integer")], &[]),
    (
        "Activation",
        &[
            ("plugin", "string"),
            ("version", "integer"),
            ("digest", "string"),
            ("is_changed", "boolean"),
        ],
        &[("previous_version", "integer"), ("warnings", "[string]")],
    ),
    (
        "BindRequest",
        &[("plugin", "string"), ("hook", "string")],
        &[
            ("scope", "string"),
            ("position", "integer"),
            ("config", "any"),
            ("failure_policy", "string"),
            ("isolation", "string"),
        ],
    ),
    (
        "Binding",
        &[
            ("id", "string"),
            ("app", "string"),
            ("plugin", "string"),
            ("hook", "string"),
            ("scope", "string"),
            ("position", "integer"),
            ("failure_policy", "string"),
            ("isolation", "string"),
            ("created_at", "time"),
        ],
        &[
            ("config", "any"),
            ("active_version", "integer"),
            ("problem", "string"),
        ],
    ),
    (
        "BoundBinding",
        &[
            ("id", "string"),
            ("app", "string"),
            ("plugin", "string"),
            ("hook", "string"),
            ("scope", "string"),
            ("position", "integer"),
            ("failure_policy", "string"),
            ("isolation", "string"),
            ("created_at", "time"),
            ("is_new", "boolean"),
        ],
        &[
            ("config", "any"),
            ("active_version", "integer"),
            ("kept", "[string]"),
            ("warnings", "[string]"),
            ("problem", "string"),
        ],
    ),
    ("Bindings", &[("items", "[Binding]")], &[]),
    (
        "AppKeyRequest",
        &[("role", "string")],
        &[("label", "string"), ("methods", "[string]")],
    ),
    ("OperatorKeyRequest", &[], &[("label", "string")]),
    (
        "Key",
        &[
            ("id", "string"),
            ("role", "string"),
            ("label", "string"),
            ("created_at", "time"),
        ],
        &[
            ("app", "string"),
            ("methods", "[string]"),
            ("revoked_at", "time"),
        ],
    ),
    (
        "NewKey",
        &[
            ("id", "string"),
            ("role", "string"),
            ("label", "string"),
            ("created_at", "time"),
            ("secret", "string"),
        ],
        &[("app", "string"), ("methods", "[string]")],
    ),
    ("Keys", &[("items", "[Key]")], &[]),
];

/// Names of the members that a request may have.
pub(super) fn members(schema: &str) -> Vec<&'static str> {
    let found = SHAPES.iter().find(|(name, ..)| *name == schema);
    found.map_or_else(Vec::new, |(_, required, optional)| {
        let all = required.iter().chain(*optional);
        all.map(|(name, _)| *name).collect()
    })
}

/// `components.schemas` of the document.
pub(super) fn components() -> Map<String, Value> {
    let mut components = Map::new();
    for (name, required, optional) in SHAPES {
        let properties: Map<String, Value> = required
            .iter()
            .chain(*optional)
            .map(|(name, kind)| ((*name).to_owned(), schema(kind)))
            .collect();
        let required: Vec<&str> = required.iter().map(|(name, _)| *name).collect();
        let shape = json!({
            "type": "object",
            "additionalProperties": false,
            "properties": properties,
            "required": required,
        });
        components.insert((*name).to_owned(), shape);
    }
    components.insert(
        "OpenApi".to_owned(),
        json!({ "type": "object", "description": "an OpenAPI 3.1 document" }),
    );
    components
}

/// A reference to a schema.
pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn schema(kind: &str) -> Value {
    match kind {
        "any" => json!({}),
        "time" => json!({ "type": "string", "format": "date-time" }),
        "string" | "integer" | "boolean" => json!({ "type": kind }),
        "string?" | "integer?" => json!({ "type": [kind.trim_end_matches('?'), "null"] }),
        list if list.starts_with('[') => {
            json!({ "type": "array", "items": schema(list.trim_matches(['[', ']'])) })
        }
        name => reference(name),
    }
}

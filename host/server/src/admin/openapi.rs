//! The OpenAPI 3.1 document, made from the table of routes.

use serde_json::{Map, Value, json};

use super::{
    problem::CODES,
    routes::{PREFIX, RequestBody, Route},
    schemas::{components, reference},
};

pub(super) fn document(routes: &[Route]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let path = paths
            .entry(format!("{PREFIX}{}", route.path))
            .or_insert_with(|| json!({}));
        path[route.method.as_str()] = operation(route);
    }
    let codes: Vec<String> = CODES
        .iter()
        .map(|(code, status, title)| format!("`{code}` ({}): {title}", status.as_u16()))
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tidegate admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": format!("Errors are problem documents with a stable `code`. {}.", codes.join("; ")),
        },
        "security": [{ "key": [] }],
        "paths": paths,
        "components": {
            "schemas": components(),
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer", "description": "an admin key, tga_…" } },
        },
    })
}

fn operation(route: &Route) -> Value {
    let (status, schema) = route.response;
    let mut success = json!({ "description": "done" });
    if !schema.is_empty() {
        let kind = if route.is_stream() {
            "application/x-ndjson"
        } else {
            "application/json"
        };
        success["content"] = json!({ kind: { "schema": reference(schema) } });
    }
    let problem = json!({ "application/problem+json": { "schema": reference("Problem") } });
    let mut operation = json!({
        "operationId": route.operation,
        "summary": route.summary,
        "parameters": parameters(route),
        "responses": {
            status.to_string(): success.clone(),
            "default": { "description": "a problem", "content": problem },
        },
        "x-role": route.role.as_str(),
    });
    if status == 201 && !route.operation.starts_with("create") {
        operation["responses"]["200"] = success;
    }
    match route.request {
        RequestBody::None => {}
        RequestBody::Json(schema) => {
            operation["requestBody"] = json!({
                "required": true,
                "content": { "application/json": { "schema": reference(schema) } },
            });
        }
        RequestBody::Wasm => {
            operation["requestBody"] =
                json!({ "required": true, "content": { "application/wasm": {} } });
        }
    }
    operation
}

fn parameters(route: &Route) -> Vec<Value> {
    let in_path = route.path.split('/').filter_map(|part| {
        let name = part.strip_prefix('{')?.strip_suffix('}')?;
        Some(
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }),
        )
    });
    let in_query = route.query.iter().map(|parameter| {
        json!({
            "name": parameter.name,
            "in": "query",
            "description": parameter.summary,
            "schema": { "type": parameter.kind },
        })
    });
    in_path.chain(in_query).collect()
}

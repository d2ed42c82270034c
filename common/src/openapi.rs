//! The description of a node's API, `GET /openapi.json`.
//!
//! `openapi.json` beside this file describes what every node answers, and each role has a document
//! with the rest. HEAD is in neither: it follows from GET.

use serde_json::{Value, json};

/// What every node answers.
const SHARED: &str = include_str!("openapi.json");

/// The whole description of a role as JSON text; `own` is what only this role answers. Panics when
/// `own` is no JSON, or contradicts what every node answers.
pub fn document(own: &str) -> String {
    let parse = |part| serde_json::from_str(part).expect("each part of the description is JSON");
    let mut whole: Value = parse(own);
    join(&mut whole, parse(SHARED));
    add_refusals(&mut whole);
    add_heads(&mut whole);
    format!("{whole:#}\n")
}

/// Adds `shared` to `own`: objects are joined name by name, lists and texts end to end.
fn join(own: &mut Value, shared: Value) {
    match (own, shared) {
        (Value::Object(own), Value::Object(shared)) => {
            for (name, value) in shared {
                join(own.entry(name).or_insert(Value::Null), value);
            }
        }
        (Value::Array(own), Value::Array(shared)) => own.extend(shared),
        (Value::String(own), Value::String(shared)) => own.push_str(&shared),
        (own @ Value::Null, shared) => *own = shared,
        (own, shared) => panic!("{own} and {shared} cannot be joined"),
    }
}

/// Paths that need no token.
const OPEN: [&str; 5] = ["/", "/health", "/ready", "/metrics", "/openapi.json"];

/// Describes the refusals of [`access`](crate::access): of a name on every path, of pages of another
/// origin and of encoded bodies where something is changed, and of who shows no token. An open path overrides the scheme
/// that the whole document names.
fn add_refusals(whole: &mut Value) {
    let Some(paths) = whole["paths"].as_object_mut() else { return };
    for (path, operations) in paths {
        for (method, operation) in operations.as_object_mut().into_iter().flatten() {
            let is_open = OPEN.contains(&path.as_str());
            if is_open {
                operation["security"] = json!([]);
            }
            let refusals = [
                ("401", "NoToken", !is_open),
                ("403", "OtherOrigin", method != "get"),
                ("415", "OtherCoding", method != "get"),
                ("421", "OtherHost", true),
            ];
            for (status, name, _) in refusals.into_iter().filter(|(.., is_possible)| *is_possible) {
                let place = format!("#/components/responses/{name}");
                operation["responses"][status] = json!({ "$ref": place });
            }
        }
    }
}

/// Describes HEAD wherever there is GET: the same parameters, statuses and headers, no bodies.
fn add_heads(whole: &mut Value) {
    let described = whole.clone();
    for path in members(&mut whole["paths"]) {
        let Some(Value::Object(mut head)) = path.get("get").cloned() else { continue };
        let name = head["operationId"].as_str().unwrap_or_default();
        head["operationId"] = format!("{name}Head").into();
        head["summary"] = "The same without a body".into();
        head.remove("description");
        for response in members(&mut head["responses"]) {
            let place = response.get("$ref").and_then(|place| place.as_str()?.strip_prefix('#'));
            let of_get = place.map_or(Some(&*response), |place| described.pointer(place));
            let headers = of_get.and_then(|of_get| of_get.get("headers")).cloned();
            *response = json!({ "description": "As with GET" });
            if let Some(headers) = headers {
                response["headers"] = headers;
            }
        }
        path["head"] = head.into();
    }
}

/// The values of an object, or none of anything else.
fn members(value: &mut Value) -> impl Iterator<Item = &mut Value> {
    value.as_object_mut().into_iter().flat_map(|object| object.values_mut())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(own: Value) -> Value {
        serde_json::from_str(&document(&own.to_string())).unwrap()
    }

    #[test]
    fn own_and_shared_parts_are_joined() {
        let whole = described(json!({
            "info": { "title": "Own", "description": "Own text. " },
            "tags": [{ "name": "own" }],
            "paths": { "/messages": { "post": { "operationId": "append" } } },
        }));
        assert_eq!((&whole["info"]["title"], &whole["openapi"]), (&json!("Own"), &json!("3.1.0")));
        let text = whole["info"]["description"].as_str().unwrap();
        assert!(text.starts_with("Own text. Any `Content-Type`"), "{text}");
        assert_eq!(whole["tags"][0]["name"], "own");
        assert_eq!(whole["tags"].as_array().unwrap().last().unwrap()["name"], "chaos");
        let messages = whole["paths"]["/messages"].as_object().unwrap();
        assert_eq!(messages.keys().collect::<Vec<_>>(), ["get", "head", "post"]);
    }

    #[test]
    fn refusals_are_described_where_they_come() {
        let page = json!({ "operationId": "page", "summary": "The page", "responses": {} });
        let whole = described(json!({ "paths": { "/own": { "put": {} }, "/": { "get": page } } }));
        let statuses = |path: &str, method: &str| {
            let refused = ["401", "403", "415", "421"].into_iter();
            let responses = &whole["paths"][path][method]["responses"];
            refused.filter(|status| responses.get(status).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(statuses("/own", "put"), ["401", "403", "415", "421"]);
        assert_eq!(statuses("/messages", "get"), ["401", "421"]);
        assert_eq!(statuses("/", "get"), ["421"]);
        assert_eq!(statuses("/ready", "head"), ["421"]);
        let security = |path: &str, method: &str| whole["paths"][path][method].get("security");
        assert_eq!(security("/ready", "head"), Some(&json!([])));
        assert_eq!((security("/own", "put"), &whole["security"][0]), (None, &json!({})));
    }

    #[test]
    fn head_is_get_without_bodies() {
        let whole = described(json!({
            "paths": {
                "/own": { "put": {} },
            },
        }));
        let heads = whole["paths"].as_object().unwrap().iter();
        let without = heads.filter(|(_, path)| path.get("head").is_none()).map(|(name, _)| name);
        assert_eq!(without.collect::<Vec<_>>(), ["/own"]);
        let stream = &whole["paths"]["/messages/stream"];
        let (get, head) = (&stream["get"], &stream["head"]);
        assert_eq!((&head["operationId"], &head["tags"]), (&json!("followLogHead"), &get["tags"]));
        assert_eq!((&head["parameters"], head.get("description")), (&get["parameters"], None));
        let as_with_get = json!({ "description": "As with GET" });
        assert_eq!(head["responses"]["400"], as_with_get);
        // Headers stay, whether GET's answer stands there or elsewhere.
        let (of_get, of_head) = (&get["responses"]["200"], &head["responses"]["200"]);
        assert_eq!((&of_head["headers"], of_head.get("content")), (&of_get["headers"], None));
        let later = &whole["components"]["responses"]["NotNow"]["headers"];
        assert!(later.is_object() && head["responses"]["503"]["headers"] == *later, "{head}");
    }

    #[test]
    #[should_panic(expected = "cannot be joined")]
    fn contradicting_parts_are_a_bug() {
        document(r#"{"openapi": {}}"#);
    }
}

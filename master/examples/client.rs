//! Appends a message exactly once, then prints the log as it grows.
use std::{env, thread::sleep, time::Duration};

use serde_json::{Value, json};
use ureq::{Agent, Body, Error, http::Response};

const SECOND: Duration = Duration::from_secs(1);

fn append(agent: &Agent, url: &str, key: &str, msg: &str) -> Result<Value, Error> {
    let (mut place, mut tries) = (url.to_string(), 9);
    loop {
        tries -= 1;
        let post = agent.post(&place).config().max_redirects(0).build();
        let post = post.header("Idempotency-Key", key).header("Prefer", "return=minimal");
        match post.send(json!({ "msg": msg }).to_string()).and_then(read) {
            // 307, which ureq does not follow with a body: another node is the master.
            Ok(Value::Object(told)) if tries > 0 && told.contains_key("master") => {
                place = format!("{}/messages", told["master"].as_str().unwrap_or_default());
            }
            Err(error) if tries > 0 && may_pass(&error) => {
                sleep(SECOND);
                place = url.to_string();
            }
            result => return result,
        }
    }
}

/// 502, 503, or no answer at all.
fn may_pass(error: &Error) -> bool {
    !matches!(error, Error::StatusCode(code) if ![502, 503].contains(code))
}

fn read(mut answer: Response<Body>) -> Result<Value, Error> {
    let body = answer.body_mut().with_config().limit(u64::MAX).read_to_vec()?;
    serde_json::from_slice(&body).map_err(|error| Error::Other(error.into()))
}

fn main() -> Result<(), Error> {
    let url = env::args().nth(1).unwrap_or("http://localhost:8000".into()) + "/messages";
    let agent: Agent = Agent::config_builder().timeout_global(Some(60 * SECOND)).build().into();
    let stored = append(&agent, &url, "order-17/rust", "hello from Rust")?;
    println!("stored: {stored}");

    let mut next = 1;
    loop {
        let page = agent.get(format!("{url}?from={next}&limit=100&wait=30000")).call();
        match page.and_then(read) {
            Ok(page) => page["messages"].as_array().into_iter().flatten().for_each(|msg| {
                println!("{next} {msg}");
                next += 1;
            }),
            Err(error) => {
                eprintln!("{error}; trying again");
                sleep(SECOND);
            }
        }
    }
}

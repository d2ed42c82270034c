//! What a hostile client sends on one connection: requests made by a grammar from a seed, most of
//! them changed somewhere, cut into segments.

use std::ops::Range;

use serde_json::{Value, json};

use super::history::Dice;

/// One connection.
#[derive(Debug)]
pub struct Session {
    pub requests: Vec<Request>,
    /// What is sent, a segment at a time.
    pub segments: Vec<Vec<u8>>,
    /// The client ends its half of the connection after that.
    pub half_closes: bool,
    /// Every request is sound, so each gets its answer.
    pub is_sound: bool,
}

#[derive(Debug, Default)]
pub struct Request {
    bytes: Vec<u8>,
    /// What it posts, if its body is the JSON for that.
    pub message: Option<String>,
    pub is_head: bool,
    /// It is not known where it ends: nothing may follow it.
    is_last: bool,
    is_sound: bool,
}

const PATHS: [&str; 12] = [
    "/messages",
    "/messages/1",
    "/messages/0",
    "/health",
    "/ready",
    "/metrics",
    "/openapi.json",
    "/",
    "/secondaries/0/chaos",
    "/chaos",
    "/entries",
    "/nowhere/%00/../x",
];
const NODE_PATHS: [&str; 4] = ["/replicate", "/heartbeat", "/promise", "/chaos"];
const NAMES: [&str; 6] = ["from", "limit", "committed", "confirmed", "x", ""];
const VALUES: [&str; 9] =
    ["1", "0", "-1", "true", "false", "9", "18446744073709551615", "18446744073709551616", "%31"];
const VERSIONS: [&str; 6] = ["HTTP/1.0", "HTTP/0.9", "HTTP/9.9", "http/1.1", "HTTP/1.1 x", ""];
const METHODS: [&str; 9] =
    ["GET", "HEAD", "PUT", "OPTIONS", "CONNECT", "post", "PO ST", "\u{0}", "P\u{f6}st"];
const TARGETS: [&str; 7] = ["//messages", "*", "", "http://x/messages", "/messages#x", "a", "/?"];
const FIELDS: [&str; 24] = [
    "Content-Length: 5",
    "Content-Length: +5",
    "Content-Length: -1",
    "Content-Length: 18446744073709551616",
    "Content-Length: 1048577",
    "Content-Length : 5",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "transfer-encoding : chunked",
    "Connection: close",
    "Connection: upgrade",
    "Expect: 100-continue",
    "Expect: the unexpected",
    "Host: evil.example",
    "Origin: http://evil.example",
    "Sec-Fetch-Site: cross-site",
    "Authorization: Bearer x",
    "Idempotency-Key: gr\u{f6}\u{df}e",
    "Idempotency-Key:",
    "Last-Event-ID: x",
    " folded: x",
    "no colon",
    ": no name",
    "X: a\rb\u{0}c",
];
/// Each of them costs the node a thread for good.
const DEAR: [&str; 2] = ["HTTP/2.0", "HTTP/1.1\r\nContent-Length: 1000000000000000"];
const JSON: [&str; 14] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "null",
    "1e400",
    "-0.0",
    "\u{0}",
    "\"msg\":\"",
    "[[[[",
];

fn one<'a>(dice: &mut Dice, of: &[&'a str]) -> &'a str {
    of[dice.below(of.len() as u64) as usize]
}

fn range(dice: &mut Dice, end: usize) -> Range<usize> {
    let start = dice.below(end as u64 + 1) as usize;
    start..start + dice.below((end - start) as u64 + 1) as usize
}

impl Session {
    /// The session of this number, whose messages begin with it.
    pub fn new(seed: u64, number: u64) -> Session {
        let dice = &mut Dice::new(seed.wrapping_mul(1_000_003).wrapping_add(number));
        let mut requests: Vec<Request> = Vec::new();
        while requests.len() < 1 + dice.below(4) as usize {
            let message = format!("{number}-{}", requests.len());
            requests.push(match dice.below(20) {
                0..8 => Request::sound(dice, &message),
                8..11 => Request::read(dice),
                11..14 => Request::with_odd_body(dice, &message),
                14..17 => Request::with_odd_head(dice, &message),
                17 => Request::of_nodes(dice),
                18 => Request::smuggling(dice, number),
                _ => Request::noise(dice),
            });
            if requests.last().is_some_and(|request| request.is_last) {
                break;
            }
        }
        // The answer to an unknown expectation overtakes those before it: see `common::http`.
        let overtakes = |request: &Request| request.bytes.windows(11).any(|w| w == b"the unexpec");
        if requests.last().is_some_and(overtakes) {
            requests.drain(..requests.len() - 1);
        }
        let bytes = requests.iter().flat_map(|request| request.bytes.clone()).collect();
        let half_closes = dice.one_in(5);
        let is_sound = !half_closes && requests.iter().all(|request| request.is_sound);
        Session { segments: cut(dice, bytes), requests, half_closes, is_sound }
    }
}

fn cut(dice: &mut Dice, bytes: Vec<u8>) -> Vec<Vec<u8>> {
    let mut places: Vec<usize> =
        (0..dice.below(5)).map(|_| range(dice, bytes.len()).start).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|ends| bytes[ends[0]..ends[1]].to_vec()).collect()
}

impl Request {
    fn new(lines: &[String], end: &str, body: &[u8]) -> Request {
        let head = lines.join(end) + end + end;
        let is_head = head.starts_with("HEAD ");
        // A line may hold what is no UTF-8 when every character is one byte.
        let head = head.chars().map(|c| u8::try_from(c).unwrap_or(b'?'));
        Request { bytes: head.chain(body.iter().copied()).collect(), is_head, ..Request::default() }
    }

    fn sound(dice: &mut Dice, message: &str) -> Request {
        let body = body_of(dice, message);
        let (lines, sent) = post(dice, "/messages", &body);
        let request = Request::new(&lines, "\r\n", &sent);
        Request { message: Some(message.into()), is_sound: true, ..request }
    }

    fn read(dice: &mut Dice) -> Request {
        let (method, path) = (one(dice, &["GET", "GET", "HEAD", "DELETE"]), one(dice, &PATHS));
        let pair = |dice: &mut Dice| [one(dice, &NAMES), one(dice, &VALUES)].join("=");
        let query = (0..dice.below(4)).map(|_| pair(dice)).collect::<Vec<_>>().join("&");
        let line = format!("{method} {path}?{query} HTTP/1.1");
        Request { is_sound: true, ..Request::new(&[line, "Host: node".into()], "\r\n", b"") }
    }

    fn with_odd_body(dice: &mut Dice, message: &str) -> Request {
        let mut body = body_of(dice, message);
        change(dice, &mut body);
        let (lines, sent) = post(dice, "/messages", &body);
        // In what is passed over nobody looks for UTF-8.
        let posted = serde_json::from_str::<Value>(&String::from_utf8_lossy(&body)).ok();
        let message = posted.and_then(|body| body["msg"].as_str().map(String::from));
        Request { message, ..Request::new(&lines, "\r\n", &sent) }
    }

    fn with_odd_head(dice: &mut Dice, message: &str) -> Request {
        let body = body_of(dice, message);
        let (mut lines, sent) = post(dice, "/messages", &body);
        let (mut method, mut target, mut version) = ("POST", "/messages", "HTTP/1.1");
        let mut end = "\r\n";
        for _ in 0..=dice.below(2) {
            match dice.below(7) {
                0 => method = one(dice, &METHODS),
                1 => target = one(dice, &TARGETS),
                2 if dice.one_in(20) => version = one(dice, &DEAR),
                2 => version = one(dice, &VERSIONS),
                3 => end = "\n",
                4 => lines.push(format!("X: {}", "x".repeat(1 << dice.below(18)))),
                _ => lines.insert(1, one(dice, &FIELDS).into()),
            }
        }
        lines[0] = format!("{method} {target} {version}");
        let message = Some(message.into());
        Request { message, is_last: true, ..Request::new(&lines, end, &sent) }
    }

    fn of_nodes(dice: &mut Dice) -> Request {
        let (epoch, seq) = (one(dice, &VALUES), one(dice, &VALUES));
        let call = format!(
            r#"{{"epoch":{epoch},"seq":{seq},"last_seq":{seq},"committed_seq":0,"msg":"stray"}}"#
        );
        let mut body = call.into_bytes();
        if dice.one_in(2) {
            change(dice, &mut body);
        }
        let path = one(dice, &NODE_PATHS);
        let (lines, sent) = post(dice, path, &body);
        Request::new(&lines, "\r\n", &sent)
    }

    /// The body of a request is itself a request, which nobody may take for one.
    fn smuggling(dice: &mut Dice, number: u64) -> Request {
        let inner = Request::sound(dice, &format!("smuggled-{number}")).bytes;
        let path = one(dice, &["/messages", "/health"]);
        let (mut lines, sent) = post(dice, path, &inner);
        let is_last = dice.one_in(2);
        if is_last {
            let both = ["Content-Length: 0", "Transfer-Encoding: chunked", "Content-Length: 4"];
            lines.extend([one(dice, &both), "Transfer-Encoding: identity"].map(String::from));
        }
        Request { is_last, ..Request::new(&lines, "\r\n", &sent) }
    }

    fn noise(dice: &mut Dice) -> Request {
        let bytes = (0..dice.below(300)).map(|_| dice.below(256) as u8).collect();
        Request { bytes, is_last: true, ..Request::default() }
    }
}

/// The body of a POST of this message.
fn body_of(dice: &mut Dice, message: &str) -> Vec<u8> {
    let mut body = json!({ "msg": message });
    if dice.one_in(2) {
        body["w"] =
            [json!(1), json!(2.0), json!("majority"), json!("all")][dice.below(4) as usize].clone();
    }
    if dice.one_in(3) {
        body["padding"] = "p".repeat(1 << dice.below(13)).into();
    }
    let text = if dice.one_in(3) { format!(" {body:#}\n") } else { body.to_string() };
    text.into_bytes()
}

/// The lines of a POST, and its body as it is sent: in chunks or whole.
fn post(dice: &mut Dice, path: &str, body: &[u8]) -> (Vec<String>, Vec<u8>) {
    let mut lines = vec![format!("POST {path} HTTP/1.1"), "hOsT: node".into()];
    // The log in every answer would be long.
    lines.push("Prefer: return=minimal".into());
    if dice.one_in(3) {
        lines.push("Content-Length: ".to_string() + &body.len().to_string());
        return (lines, body.to_vec());
    }
    lines.push("Transfer-Encoding: chunked".into());
    let mut sent = Vec::new();
    for chunk in cut(dice, body.to_vec()).iter().filter(|chunk| !chunk.is_empty()) {
        sent.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        sent.extend_from_slice(chunk);
        sent.extend_from_slice(b"\r\n");
    }
    sent.extend_from_slice(b"0\r\n\r\n");
    (lines, sent)
}

/// Replaces, repeats or drops parts of a JSON text.
pub fn change(dice: &mut Dice, body: &mut Vec<u8>) {
    for _ in 0..=dice.below(3) {
        let place = range(dice, body.len());
        let new = match dice.below(4) {
            0 => Vec::new(),
            1 => body[range(dice, body.len())].to_vec(),
            2 => vec![dice.below(256) as u8],
            _ => one(dice, &JSON).into(),
        };
        body.splice(place, new);
    }
}

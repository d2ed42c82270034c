//! Fuzz targets for what is pure: `fuzz.sh` runs them, each with the seeds in its folder of `seeds`.
//!
//! libFuzzer invents inputs by what they make the code do. A target does not only wait for a panic:
//! it compares what the code makes of an input with a rule that is told in another way.

#![no_main]

use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{env, fs, process};

use clap::Parser;
use common::access::{Rules, Who};
use common::client::check_base_url;
use common::entries::{Epoch, Log, Message, Seq};
use common::http::{Request, Response};
use common::json::read_object;
use common::reading;
use common::reign::{MasterId, Reign};
use common::store::{Opened, Role, Store};
use common::tokens::Tokens;
use common::wire::{
    self, Ack, Caller, Heartbeat, Numbered, Promise, Refusal, Replicate, SecondaryHealth, Standing,
};
use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use master::bodies::PostMessage;
use master::concern::Concern;
use master::health::Thresholds;
use master::lines::{Found, Lines, Verdict};
use master::settings::Cli;
use redb::{Database, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

// They are no part of what `common` shows.
#[path = "../src/http/framing.rs"]
mod framing;
#[path = "../src/http/head.rs"]
mod head;

use framing::Framing;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 7] = [
    ("framing", framing),
    ("access", access),
    ("wire", wire),
    ("answers", answers),
    ("reading", reading),
    ("settings", settings),
    ("store", store),
];

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = env::var("TARGET").expect("TARGET names a target");
        let found = TARGETS.iter().find(|(known, _)| *known == name).expect("it is a target");
        TARGET.set(found.1).expect("it is set once");
    },
    |data: &[u8]| TARGET.get().expect("it was set")(data)
);

/// Bytes of a body at most.
const MOST: usize = 40;

/// A request: its line, fields, an empty line, and its body.
fn request(data: &[u8]) -> (Request, &[u8]) {
    let end = data.windows(2).position(|two| two == b"\n\n").unwrap_or(data.len());
    let head = String::from_utf8_lossy(&data[..end]);
    let (line, fields) = head.split_once('\n').unwrap_or((&head, ""));
    let (method, target) = line.split_once(' ').unwrap_or((line, ""));
    let fields = fields.split('\n').filter_map(|field| field.split_once(':'));
    let headers = fields.map(|(name, value)| (name.into(), value.trim().into())).collect();
    let request = head::read(method.into(), target, headers);
    (request, data.get(end + 2..).unwrap_or_default())
}

/// A body has one length, whoever reads it.
fn framing(data: &[u8]) {
    let (request, body) = request(data);
    let checked = head::check(&request, true).and_then(|()| Framing::of(&request, MOST));
    let Ok(framing) = checked else { return };
    assert!(!format!("{} {}", request.path, request.query).contains(char::is_control));
    assert!(request.headers.iter().all(|(_, value)| !value.contains(['\r', '\n', '\0'])));
    let values = |name| request.values(name).collect::<Vec<_>>();
    let (codings, lengths) = (values("Transfer-Encoding"), values("Content-Length"));
    let read = framing.read(&mut &*body, MOST, &|_| true).ok();
    match framing {
        Framing::Length(length) => {
            assert!(codings.is_empty() && length <= MOST);
            let is_it = |digits: &&str| digits.trim_start_matches('0') == length.to_string();
            assert!(lengths.iter().all(|digits| length == 0 || is_it(digits)));
            assert_eq!(read.as_deref(), body.get(..length));
        }
        Framing::Chunked => {
            assert!(codings.len() == 1 && codings[0].eq_ignore_ascii_case("chunked"));
            assert!(lengths.is_empty());
            assert_eq!(read.as_deref(), Some(body).filter(|body| body.len() <= MOST));
        }
        Framing::Raw => {
            assert!(codings.len() == 1 && lengths.is_empty());
            assert!(read.is_none_or(|read| read.len() <= MOST));
        }
    }
}

/// Nobody passes without a token, under a foreign name, or from the page of another site.
fn access(data: &[u8]) {
    let (request, body) = request(data);
    let tokens = Tokens::parse(&String::from_utf8_lossy(body)).unwrap_or_default();
    let first = tokens.first().unwrap_or("of-nodes").to_string();
    assert!(tokens.is_empty() || tokens.contain(&first) && !tokens.contain(""));
    assert!(format!("{tokens:?}").ends_with(" tokens"));
    let cluster = Tokens::parse(&first).expect("a part of tokens is tokens");
    let clients = Tokens::parse("of-clients").expect("it is one");
    let rules = Rules { hosts: vec!["log.example".into()], cluster, clients, read_open: false };
    let passes = |who| rules.check(&request, who).is_ok();
    let shown = request.header("Authorization").unwrap_or_default();
    let asks = request.method == "OPTIONS";
    assert!(asks || !passes(Who::Node) || shown.ends_with(&first));
    assert!(asks || !passes(Who::Reader) || shown.ends_with("of-clients"));
    assert!(!rules.trust(&request) || shown.ends_with(&first));
    if passes(Who::Anybody) {
        let is_read = matches!(request.method.as_str(), "GET" | "HEAD" | "OPTIONS");
        let site = request.header("Sec-Fetch-Site").unwrap_or("none");
        assert!(is_read || ["none", "same-origin"].contains(&site));
        assert!(request.values("Host").all(is_own));
    }
}

/// Whether no resolver of the internet leads a name like this one to a node.
fn is_own(host: &str) -> bool {
    let name = host.to_ascii_lowercase();
    let name = name.rsplit_once(':').map_or(&*name, |(name, _)| name);
    let own = [".localhost", ".svc", ".svc.cluster.local", "log.example"];
    let is_number = name.split('.').all(|part| part.parse::<u8>().is_ok());
    let is_ipv6 = name.starts_with('[') && name.ends_with(']');
    !name.contains('.') || is_number || is_ipv6 || own.iter().any(|own| name.ends_with(own))
}

/// What a node reads of a body it would write so that it is read again as the same.
fn wire(data: &[u8]) {
    again::<Heartbeat>(data, |heartbeat| {
        _ = (heartbeat.is_possible(), heartbeat.greatest_epoch());
    });
    again::<Promise>(data, |promise| _ = promise.is_possible());
    if let Ok(post) = read_object::<PostMessage>(data) {
        let (w, wtimeout) = (post.w.as_ref(), post.wtimeout.as_ref());
        let concern = Concern::parse(w, wtimeout, 3, Default::default());
        assert!(concern.is_err() || concern.is_ok_and(|concern| concern.acks_needed(2) <= 2));
        assert!(serde_json::from_str::<String>(post.msg.json()).is_ok());
    }
    if let Ok(Replicate::Numbered(call)) = read_object(data) {
        accept(call);
    }
}

fn again<T: Serialize + DeserializeOwned>(data: &[u8], use_it: impl Fn(&T)) {
    let Ok(read) = read_object::<T>(data) else { return };
    use_it(&read);
    let written = serde_json::to_value(&read).expect("what was read can be written");
    let read = serde_json::from_value::<T>(written.clone()).expect("what was written can be read");
    assert_eq!(serde_json::to_value(&read).ok(), Some(written));
}

/// A log takes the call, or refuses it and stays; what it takes it sends on.
fn accept(call: Numbered) {
    _ = (call.last(), call.greatest_epoch());
    let mut log = Log::new(usize::MAX);
    for text in ["a", "b", "c"] {
        log.append(call.prev_epoch, &Message::new(text).into());
    }
    let (first, before) = (call.first, log.last_seq());
    match log.accept(call.epoch, first, &call.drafts) {
        Err(_) => assert_eq!(log.last_seq(), before),
        Ok(new) if new > 0 && first == before.next() => {
            let (reign, committed, acked) = (call.reign, call.committed, call.acked);
            let reign_start = call.reign_start.unwrap_or_default();
            let caller = Caller { reign, reign_start, acked, committed };
            let (body, last) = wire::replicate_body(&log, caller, first, call.last());
            let sent: Replicate = read_object(&body).expect("a secondary reads it");
            assert_eq!(last, call.last());
            let call = Numbered { reign_start: Some(reign_start), ..call };
            assert_eq!(sent, Replicate::Numbered(call));
        }
        Ok(_) => {}
    }
    let last = log.last_seq();
    log.drop_from(first);
    assert_eq!(log.last_seq(), last.min(first.previous()));
}

/// A secondary answers whatever it likes: alone it commits nothing, and holds no more than there is.
fn answers(data: &[u8]) {
    let mut now = Instant::now();
    let urls = ["http://a", "http://b", "http://c"].map(String::from);
    let thresholds = Thresholds { suspected_after: 2, unhealthy_after: 5 };
    let mut lines = Lines::new(&urls, thresholds, None, now);
    let (mut log, mut calls) = (Log::new(9), Vec::new());
    let reign = Reign { epoch: Epoch(9), master: MasterId(7) };
    lines.begin_reign(reign, &log, None, &[const { Found::Nothing }; 3], now);
    for answer in data.split(|byte| *byte == b'\n') {
        now += Duration::from_secs(60);
        lines.appended(log.append(reign.epoch, &Message::new("m").into()), now);
        calls.extend(lines.claim(0, log.last_seq(), true, &log, now));
        let (kind, body) = answer.split_first().unwrap_or((&0, &[]));
        match kind {
            b'+' | b'-' if !calls.is_empty() => {
                let verdict = Verdict::of(if *kind == b'+' { 200 } else { 409 }, body);
                let call = calls.swap_remove(body.len() % calls.len());
                lines.settle(&call, verdict, &log, now, 0);
            }
            b'?' => {
                again::<Standing>(body, |standing| _ = standing.position.greatest_epoch());
                let number = lines.next_number();
                if let Ok(standing) = read_object::<Standing>(body) {
                    _ = lines.observe(0, number, &standing.position, &log, now);
                }
            }
            _ => {}
        }
        let line = &lines.secondaries()[0];
        assert!(line.acked_seq() < line.next_seq() && line.next_seq() <= log.last_seq().next());
        assert_eq!(lines.committed_seq(), Seq::NONE);
    }
    again::<SecondaryHealth>(data, |_| ());
    again::<Ack>(data, |_| ());
    again::<Refusal>(data, |_| ());
}

/// Whatever is asked for, the entries of the answer are those of the log, from a place on.
fn reading(data: &[u8]) {
    let (request, _) = request(data);
    let texts: Vec<String> = (1..=9).map(|number| number.to_string()).collect();
    let mut log = Log::new(0);
    for text in &texts {
        log.append(Epoch(1), &Message::new(text).into());
    }
    _ = reading::first(&request.query);
    let answer = reading::answer(&request, &log, Seq(8), Seq(5));
    let status = answer.status;
    let body: Value = serde_json::from_slice(&answer.into_body()).expect("it is JSON");
    match (status, &body["messages"], body["seq"].as_u64()) {
        (200, Value::Array(messages), _) => {
            let from = body["from"].as_u64().unwrap_or(1) as usize;
            let held = texts[..8].get(from - 1..).unwrap_or_default();
            assert!(held.iter().zip(messages).all(|(held, told)| held == told));
            assert!(messages.len() <= held.len());
        }
        (200, _, Some(seq)) => assert!(seq <= 8 && body["msg"] == texts[seq as usize - 1]),
        _ => assert!([400, 404].contains(&status) && body["error"].is_string()),
    }
}

/// Each line is a flag with its value. What is wrong is told without control characters.
fn settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(cli) = Cli::try_parse_from(["master"].into_iter().chain(text.lines())) else { return };
    match cli.check() {
        Ok((node, own)) => {
            assert!(own.secondaries.iter().all(|url| check_base_url(url).is_ok()));
            assert!(node.max_in_flight > 0 && node.max_message_bytes <= 32 << 20);
            assert!(own.quorum.is_none_or(|quorum| quorum <= own.secondaries.len() + 1));
            assert!(!own.describe().contains('\n'));
        }
        Err(problems) => {
            let is_plain = |problem: &String| !problem.contains(char::is_control);
            assert!(!problems.is_empty() && problems.iter().all(is_plain), "{problems:?}");
        }
    }
}

const ENTRIES: TableDefinition<'_, u64, (u64, &str, &[u8])> = TableDefinition::new("entries");
const FACTS: TableDefinition<'_, &str, u64> = TableDefinition::new("facts");
const IDS: TableDefinition<'_, &str, u128> = TableDefinition::new("ids");

/// A file with damaged bytes or invented records is refused, or it is read as the same by all.
fn store(data: &[u8]) {
    static WHOLE: OnceLock<Vec<u8>> = OnceLock::new();
    let directory = env::temp_dir().join(format!("fuzz-{}", process::id()));
    let file = directory.join("master-1.redb");
    let whole = WHOLE.get_or_init(|| {
        let opened = Store::open(&directory, Role::Master, 9).expect("it is new");
        append(opened, "abcdef");
        fs::read(&file).expect("it was written")
    });
    let _ = fs::remove_file(&file);
    let mut input = Unstructured::new(data);
    let is_invented = input.arbitrary().unwrap_or(false);
    match is_invented {
        true => _ = invent(&file, &mut input),
        false => fs::write(&file, damage(whole, &mut input)).expect("there is room"),
    }
    let looked = Store::inspect(&directory).map(|(_, log, facts)| (texts(&log), facts));
    let opened = Store::open(&directory, Role::Master, 9);
    let Ok(opened) = opened else { return assert!(looked.is_err()) };
    let held = (texts(&opened.log), opened.facts);
    assert!(is_invented || "\"a\",\"b\",\"c\",\"d\",\"e\",\"f\"".starts_with(&held.0));
    assert_eq!(looked.as_ref(), Ok(&held));
    let last = opened.log.last_seq();
    append(opened, "z");
    let again = Store::open(&directory, Role::Master, 9).expect("what was written is sound");
    assert_eq!(again.log.last_seq(), last.next());
}

/// Appends a message for each of these letters.
fn append(opened: Opened, letters: &str) {
    let Opened { store, mut log, facts } = opened;
    let first = log.last_seq().next();
    for letter in letters.chars() {
        log.append(log.last_epoch(), &Message::new(&letter.to_string()).into());
    }
    store.write(&log.batch(first, usize::MAX), &facts).expect("there is room");
}

fn texts(log: &Log) -> String {
    let chunks = log.chunks(Seq(1)..=log.last_seq());
    chunks.iter().map(|chunk| String::from_utf8_lossy(chunk.bytes())).collect()
}

/// Changes bytes, most of them at the beginning, and perhaps cuts the end off.
fn damage(whole: &[u8], input: &mut Unstructured) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..input.int_in_range(0..=8).unwrap_or(0) {
        let range = if input.ratio(1, 2).unwrap_or(true) { 4096 } else { bytes.len() };
        let at = input.choose_index(range).unwrap_or(0);
        bytes[at] ^= input.arbitrary::<u8>().unwrap_or(0);
    }
    if input.ratio(1, 8).unwrap_or(false) {
        bytes.truncate(input.choose_index(whole.len()).unwrap_or(0));
    }
    bytes
}

/// Writes a sound file whose records no node would write.
fn invent(file: &Path, input: &mut Unstructured) -> Result<(), redb::Error> {
    let database = Database::create(file)?;
    let write = database.begin_write()?;
    for place in 1..=input.int_in_range(0..=9).unwrap_or(0) {
        let place = if input.ratio(1, 16).unwrap_or(false) { place + 1 } else { place };
        let (epoch, key) = input.arbitrary::<(u64, &str)>().unwrap_or_default();
        let json = input.arbitrary::<&[u8]>().unwrap_or_default();
        let json = if json.len() % 4 > 0 { &b"\"m\""[..] } else { json };
        write.open_table(ENTRIES)?.insert(place, (epoch, key, json))?;
    }
    for name in ["epoch", "followed", "log_epoch", "committed", "strays_from", "promised", "id"] {
        match input.arbitrary::<(u8, u64)>().unwrap_or_default() {
            (0..8, _) => {}
            (8..16, value) => _ = write.open_table(IDS)?.insert(name, u128::from(value) << 9)?,
            (_, value) => _ = write.open_table(FACTS)?.insert(name, value)?,
        }
    }
    Ok(write.commit()?)
}

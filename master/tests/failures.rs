//! When a secondary fails: 502 with the reason for that URL, within the timeout. The message is in
//! the log, its place is given, and every other node's log stays a prefix of the master's.

mod support;

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use support::cluster::Cluster;
use support::fake::{self, Fake, Received, healthy, respond};
use support::http::Answer;
use support::node::{Node, Port};
use support::{SOON, wait_until};

/// What a noisy machine may add to a timeout.
const SLACK: Duration = Duration::from_millis(1500);

/// The timeout of those tests in which something is silent, and that of the others, which must
/// not need it.
const SHORT: u64 = 400;
const LONG: &str = "20000";

/// Posts twice to a master of a bad secondary and a good one, and expects the 502 with this
/// reason. Returns how long the slower one took.
fn expect_502(url: &str, reason: &str, ack_timeout_ms: &str) -> Duration {
    let good = Node::secondary(&[]);
    let good_url = good.url();
    let master = Node::master(&[url, &good_url], &[("ACK_TIMEOUT_MS", ack_timeout_ms)]);
    let mut took = Duration::ZERO;
    for seq in 1..=2 {
        let answer = master.post_message(&format!("m{seq}"));
        assert_eq!(answer.status, 502, "{reason}: {}", answer.text());
        let body = answer.json();
        let detail = body["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(reason), "expected {reason:?} in {}", answer.text());
        let detail = json!(detail).to_string();
        let error = format!(r#""error":"Replication to {url} failed","detail":{detail}"#);
        let bad_ack = match detail.contains("no ack within") {
            // The write's own deadline came first, as it may on a busy machine.
            true => format!(r#"{{"secondary":"{url}","ack":"pending"}}"#),
            false => format!(r#"{{"secondary":"{url}","ack":"failed","detail":{detail}}}"#),
        };
        let acks = format!(r#"{bad_ack},{{"secondary":"{good_url}","ack":"ok"}}"#);
        let rest = format!(r#""seq":{seq},"stored":true,"committed":true,"acks":[{acks}]"#);
        let expected = format!("{{{error},{rest}}}");
        assert_eq!(answer.text(), expected);
        assert_eq!(answer.header("Content-Type"), Some("application/json"));
        took = took.max(answer.took);
    }
    assert_eq!((master.log(), good.log()), (expected_log(2), expected_log(2)), "{reason}");
    let status = &master.health()["secondary_statuses"][url];
    assert_eq!((&status["acked_seq"], &status["lag_entries"]), (&json!(0), &json!(2)), "{reason}");
    assert!(status["last_error"].is_string(), "{reason}: {status}");
    took
}

fn expected_log(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("m{number}")).collect()
}

/// Expects the 502 well before the timeout.
fn expect_502_at_once(url: &str, reason: &str) {
    let took = expect_502(url, reason, LONG);
    assert!(took < Duration::from_secs(5), "{reason}: {took:?}");
}

/// Expects the 502 when the timeout is over.
fn expect_502_in_time(fake: &Fake) {
    let took = expect_502(&fake.url(), " within 400 ms", &SHORT.to_string());
    let timeout = Duration::from_millis(SHORT);
    assert!(took >= timeout && took < timeout + SLACK, "{took:?}");
}

#[test]
fn a_secondary_that_refuses_connections_is_named() {
    // Goal: nobody listens at its address.
    expect_502_at_once(&Port::reserve(0).url(), "connection refused");
}

#[test]
fn a_secondary_that_breaks_the_connection_is_named() {
    // Goal: the secondary resets, or closes, once it has the request.
    let resets = Fake::start(|_, stream| fake::reset(stream));
    expect_502_at_once(&resets.url(), "connection broken: ");
    let closes = Fake::start(|_, _| Err(io::ErrorKind::ConnectionAborted.into()));
    expect_502_at_once(&closes.url(), "connection broken: ");
    let half = Fake::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"status\":\"ok\"")?;
        Err(io::ErrorKind::ConnectionAborted.into())
    });
    expect_502_at_once(&half.url(), "connection broken: ");
}

#[test]
fn a_secondary_without_http_is_named() {
    // Goal: the answer is text, or bytes, but no HTTP.
    let ssh = |_: &Received, stream: &mut TcpStream| stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
    expect_502_at_once(&Fake::start(ssh).url(), "not an HTTP answer: ");
    let zeros = |_: &Received, stream: &mut TcpStream| stream.write_all(&[0; 4096]);
    expect_502_at_once(&Fake::start(zeros).url(), "not an HTTP answer: ");
}

#[test]
fn a_secondary_that_answers_something_else_is_named() {
    // Goal: HTTP, but no acknowledgement; the reason shows the beginning of what came.
    let cases = [
        (200, "hello", "answered 200 without JSON: hello"),
        (200, "", "answered 200 without JSON: "),
        (200, "{\"status\":\"ok\"", "answered 200 without JSON: "),
        (200, "null", "answered 200 without an ack: null"),
        (200, "[]", "answered 200 without an ack: []"),
        (200, r#"{"hello":1}"#, "answered 200 without an ack: "),
        (200, r#"{"status":"no","idx":0}"#, "answered 200 without an ack: "),
        (200, r#"{"status":"ok","seq":1,"last_seq":1}"#, "answered 200 without an ack: "),
        (201, r#"{"status":"ok","idx":0}"#, "answered 201: "),
        (302, "", "answered 302: "),
        (400, "Bad", "answered 400: Bad"),
        (404, "\u{1b}[2J\n", "answered 404:  [2J"),
        (409, "nope", "answered 409: nope"),
        (409, r#"{"code":"gap"}"#, "answered 409: "),
        (500, "boom", "answered 500: boom"),
        (503, "", "answered 503: "),
    ];
    for (status, body, reason) in cases {
        expect_502_at_once(&Fake::answering(status, body).url(), reason);
    }
}

#[test]
fn a_silent_secondary_is_named_after_the_timeout() {
    // Goal: such a secondary accepts the connection and the request, and says nothing.
    expect_502_in_time(&Fake::start(|_, _| Ok(())));
}

#[test]
fn a_dribbling_secondary_is_named_after_the_timeout() {
    // Goal: a byte now and then, in the head or in the body, does not make the timeout longer.
    let dribble = |head: &'static [u8]| {
        Fake::start(move |_, stream| {
            stream.write_all(head)?;
            // Ends when the master has given up the connection.
            loop {
                stream.write_all(b"a")?;
                thread::sleep(Duration::from_millis(20));
            }
        })
    };
    expect_502_in_time(&dribble(b"HTTP/1.1 200 OK\r\nX-"));
    expect_502_in_time(&dribble(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{"));
}

#[test]
fn an_endless_answer_is_given_up() {
    // Goal: neither memory nor time without bound: it is cut off by its length or by the timeout.
    let endless = Fake::start(|request, stream| {
        if !request.is_replicate() {
            return healthy(request, 0, stream);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")?;
        loop {
            stream.write_all(&[b' '; 65_536])?;
        }
    });
    // Which of the two comes first depends on the machine.
    let took = expect_502(&endless.url(), "", "1500");
    assert!(took < Duration::from_millis(1500) + SLACK, "{took:?}");
}

#[test]
fn every_secondary_that_failed_is_named() {
    // Goal: one answer names all of them, each with its own reason, in the order of the settings.
    let (refuses, boom) = (Port::reserve(0), Fake::answering(500, "boom"));
    let urls = [refuses.url(), boom.url()];
    let master = Node::master(&[&urls[0], &urls[1]], &[]);
    let answer = master.post_message("m1");
    let expected = json!({
        "error": format!("Replication to {} failed", urls[0]),
        "detail": "connection refused",
        "seq": 1,
        "stored": true,
        "committed": false,
        "acks": [
            { "secondary": urls[0], "ack": "failed", "detail": "connection refused" },
            { "secondary": urls[1], "ack": "failed", "detail": "answered 500: boom" },
        ],
    });
    assert_eq!((answer.status, answer.json()), (502, expected));
    assert_eq!(master.log(), ["m1"]);
}

#[test]
fn one_failure_does_not_wait_for_another() {
    // Goal: fail-fast, as the original: the client hears of the first failure when it is known,
    // within the timeout at the latest if another secondary is silent.
    let (silent, refuses) = (Fake::start(|_, _| Ok(())), Port::reserve(0));
    let (silent, refuses) = (&silent.url(), &refuses.url());
    for is_silent_last in [false, true] {
        let (secondary, mut urls) =
            (Node::secondary(&[]), [silent.clone(), refuses.clone()].to_vec());
        urls.push(secondary.url());
        if is_silent_last {
            urls.reverse();
        }
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        let master = Node::master(&urls, &[("ACK_TIMEOUT_MS", LONG)]);
        let answer = master.post_message("m1");
        assert_eq!(answer.status, 502, "{}", answer.text());
        let body = answer.json();
        assert_eq!(body["error"], format!("Replication to {refuses} failed"));
        let acks = body["acks"].as_array().unwrap();
        assert!(acks.contains(&json!({ "secondary": silent, "ack": "pending" })), "{body}");
        assert!(answer.took < Duration::from_secs(5), "{:?}", answer.took);
    }
}

#[test]
fn a_later_post_waits_for_one_timeout_only() {
    // Goal: the timeout bounds each write, also one that had to wait for another's call.
    let (silent, good) = (Fake::start(|_, _| Ok(())), Node::secondary(&[]));
    let timeout = Duration::from_millis(2500);
    let master = Node::master(&[&silent.url(), &good.url()], &[("ACK_TIMEOUT_MS", "2500")]);
    let answers: Mutex<Vec<Answer>> = Mutex::default();
    let post = |message: &str| {
        let answer = master.post_message(message);
        answers.lock().unwrap().push(answer);
    };
    thread::scope(|scope| {
        let start = Instant::now();
        for number in 0..4u32 {
            wait_until("time for the next", SOON, || {
                let waited = start.elapsed();
                if waited >= timeout * number / 4 { Ok(()) } else { Err(format!("{waited:?}")) }
            });
            let (post, message) = (&post, format!("m{number}"));
            scope.spawn(move || post(&message));
        }
    });
    for answer in answers.into_inner().unwrap() {
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert!(answer.took < timeout + SLACK, "{:?}: {}", answer.took, answer.text());
    }
}

#[test]
fn a_failed_call_fails_only_its_own_posts() {
    // Goal: the secondary swallows the first call and is well after it. The POST that made
    // this call gets a 502, and does not wait for the next call.
    // A POST that came while the first call was out goes on, and is acknowledged.
    let swallowed = AtomicBool::new(false);
    let first_answered = Arc::new(AtomicBool::new(false));
    let answered = Arc::clone(&first_answered);
    let fake = Fake::start(move |request, stream| match request.is_replicate() {
        false => fake::empty(request, stream),
        true if swallowed.swap(true, SeqCst) => {
            // An ack that came before the first POST is answered would make it a 201, truly.
            let is_answered = || if answered.load(SeqCst) { Ok(()) } else { Err("not yet") };
            wait_until("the first POST answered", SOON, is_answered);
            respond(stream, 200, &fake::ack(&request.json(), "a").to_string())
        }
        true => Ok(()),
    });
    let timeout = Duration::from_millis(2400);
    let master = Node::master(&[&fake.url()], &[("ACK_TIMEOUT_MS", "2400")]);
    let start = Instant::now();
    thread::scope(|scope| {
        let first = scope.spawn(|| {
            let answer = master.post_message("m1");
            first_answered.store(true, SeqCst);
            answer.status
        });
        wait_until("half of the timeout over", SOON, || {
            let waited = start.elapsed();
            let calls = fake.received().iter().filter(|request| request.is_replicate()).count();
            if calls == 1 && waited >= timeout / 2 { Ok(()) } else { Err(format!("{waited:?}")) }
        });
        let second = master.post_message("m2");
        assert_eq!(first.join().unwrap(), 502);
        assert_eq!(second.status, 201, "{}", second.text());
    });
}

#[test]
fn a_lasting_failure_makes_two_log_lines() {
    // Goal: five failed writes, and the failed heartbeats between them, make one line;
    // the end of the failure makes another.
    let mut cluster = Cluster::start(&[&[]], &[("HEARTBEAT_MS", "20")]);
    cluster.secondaries[0].kill();
    for number in 0..5 {
        assert_eq!(cluster.master.post_message(&format!("m{number}")).status, 502);
    }
    cluster.secondaries[0].restart();
    cluster.wait_until_level();
    cluster.master.wait_for_line("secondary recovered");
    let printed = cluster.master.printed();
    let lines: Vec<_> = printed.iter().filter(|line| line.contains("] secondary ")).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("[WARN] [master] secondary failed secondary=http"), "{lines:?}");
    assert!(lines[0].contains("error=\"connection refused\""), "{lines:?}");
}

#[test]
fn the_environments_proxy_is_not_used_between_nodes() {
    // Goal: a proxy is for the outside; a call between nodes goes straight.
    let secondary = Node::secondary(&[]);
    let nowhere = Port::reserve(0).url();
    let proxy = [("http_proxy", nowhere.as_str()), ("ALL_PROXY", &nowhere)];
    let master = Node::master(&[&secondary.url()], &proxy);
    assert_eq!(master.post_message("straight").status, 201);
    assert_eq!(secondary.log(), ["straight"]);
}

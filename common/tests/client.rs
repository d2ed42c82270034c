//! Calls from node to node: an answer or a plain reason, within the timeout, whatever the other
//! side does.

mod support;

use std::net::TcpListener;
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use common::client::Client;
use support::peer::{Connection, Peer};
use support::{DEADLINE, Node, WIDE};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

/// Short enough to wait for, long enough not to be met by chance.
const SHORT: Duration = Duration::from_millis(400);

/// The reason why a call to this peer fails, which must be known within the timeout.
fn failure_within_the_timeout(peer: &Peer) -> String {
    let client = Client::new(&peer.url(), SHORT);
    let start = Instant::now();
    let error = client.post("/replicate", b"{}").expect_err("it must fail");
    let waited = start.elapsed();
    // The machine may be busy, but not for as long as the peer would go on.
    assert!(waited < DEADLINE / 4, "it took {waited:?}: {error}");
    error.to_string()
}

/// Goal: a call that meets a kept connection which the peer has closed says nothing about the
/// peer: it is made again, and succeeds. A restart of a secondary must not cost a 502.
#[test]
fn a_closed_kept_connection_costs_nothing() {
    let ends: [fn(Connection); 4] = [
        drop,
        Connection::reset,
        // It has read the next request already.
        |mut connection| drop(connection.request()),
        |mut connection| {
            connection.request();
            connection.reset();
        },
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let peer = Peer::start(move |_, mut connection| {
            if connection.request().is_some() && connection.send(OK) {
                end(connection);
            }
        });
        let client = Client::new(&peer.url(), DEADLINE);
        for call in 0..20 {
            let answer = client.post("/replicate", b"{\"msg\":\"x\"}");
            assert_eq!(answer.expect("it must succeed").status, 200, "end {number} call {call}");
        }
    }
}

/// Goal: a peer that closes every connection is called a few times and no more.
#[test]
fn a_peer_that_closes_every_connection_is_not_stormed() {
    for reads in [false, true] {
        let peer = Peer::start(move |_, mut connection| {
            if reads {
                connection.request();
            }
        });
        let client = Client::new(&peer.url(), DEADLINE);
        let error = client.post("/replicate", b"{}").expect_err("it must fail").to_string();
        assert!(error.starts_with("connection broken"), "{error}");
        assert!(peer.accepted() <= 3, "{} connections for one call", peer.accepted());
    }
}

/// Goal: a peer that accepts and stays silent, as a stopped process does, fails the call in time.
#[test]
fn a_silent_peer_fails_the_call_within_the_timeout() {
    let peer = Peer::start(|_, mut connection| connection.hold());
    let start = Instant::now();
    assert_eq!(failure_within_the_timeout(&peer), "no answer within 400 ms");
    assert!(start.elapsed() >= SHORT, "after {:?}", start.elapsed());
}

/// Goal: a listener whose process never accepts fails the call in time too.
#[test]
fn a_peer_that_never_accepts_fails_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let error = Client::new(&url, SHORT).get("/health").unwrap_err();
    assert_eq!(error.to_string(), "no answer within 400 ms");
}

/// Goal: a peer that does not read a large call fails it in time.
#[test]
fn a_peer_that_never_reads_fails_in_time() {
    let peer = Peer::start(|_, _connection| thread::sleep(DEADLINE));
    let client = Client::new(&peer.url(), SHORT);
    let start = Instant::now();
    let error = client.post("/replicate", &vec![b'x'; 50 << 20]).unwrap_err();
    assert_eq!(error.to_string(), "no answer within 400 ms");
    assert!(start.elapsed() < DEADLINE / 2, "it took {:?}", start.elapsed());
}

/// Goal: a peer that dribbles its answer, head or body, is bounded by the same timeout.
#[test]
fn a_dribbling_peer_is_bounded_by_the_same_timeout() {
    let beginnings = [
        "HTTP/1.1 200 O",
        "HTTP/1.1 200 OK\r\nX: ",
        "HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n",
    ];
    for beginning in beginnings {
        let peer = Peer::start(move |_, mut connection| {
            connection.request();
            connection.send(beginning);
            // Ends when the client gives up.
            while connection.send("x") {
                thread::sleep(Duration::from_millis(20));
            }
        });
        assert_eq!(failure_within_the_timeout(&peer), "no answer within 400 ms", "{beginning:?}");
    }
}

/// Goal: calls that are made again do not get more time.
#[test]
fn a_repeated_call_has_the_remaining_time() {
    let peer = Peer::start(|number, mut connection| {
        connection.request();
        thread::sleep(SHORT / 4);
        if number > 0 {
            connection.hold();
        }
    });
    let client = Client::new(&peer.url(), SHORT);
    let start = Instant::now();
    let error = client.post("/replicate", b"{}").unwrap_err();
    assert_eq!(error.to_string(), "no answer within 400 ms");
    assert!(start.elapsed() >= SHORT, "after {:?}", start.elapsed());
    assert_eq!(peer.accepted(), 2);
}

/// Goal: a call that waits on a connection which leads nowhere is made again on a new one when the
/// peer is known to be back, and so are the calls after it.
#[test]
fn calls_on_dead_connections_are_made_again() {
    let peer = Peer::start(|number, mut connection| {
        while connection.request().is_some() {
            if number == 0 {
                connection.hold();
            }
            connection.send(OK);
        }
    });
    let client = Client::new(&peer.url(), DEADLINE);
    thread::scope(|scope| {
        let start = Instant::now();
        let call = scope.spawn(|| client.post("/replicate", b"{}"));
        while peer.requests() == 0 && start.elapsed() < DEADLINE {
            thread::sleep(Duration::from_millis(1));
        }
        client.reconnect();
        let answer = call.join().unwrap().expect("it must be made again");
        assert_eq!(answer.status, 200);
        assert!(start.elapsed() < DEADLINE / 2, "after {:?}", start.elapsed());
    });
    client.post("/replicate", b"{}").expect("it goes on");
    assert_eq!(peer.accepted(), 2, "with the new connection");
}

/// Goal: an answer is an answer, whatever its status and whatever its body.
#[test]
fn every_status_and_body_is_an_answer() {
    for status in [200, 201, 204, 400, 404, 409, 413, 500, 502, 503] {
        let body = if status == 204 { "" } else { "not JSON at all" };
        let length = body.len();
        let peer = Peer::answering(format!(
            "HTTP/1.1 {status} Whatever\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        let client = Client::new(&peer.url(), DEADLINE);
        for answer in [client.post("/replicate", b"{}"), client.get("/health")] {
            let answer = answer.expect("an answer is no error");
            assert_eq!((answer.status, answer.body), (status, body.as_bytes().to_vec()));
        }
        assert_eq!(peer.requests(), 2);
    }
}

/// Goal: a redirect is an answer like others: nobody is sent elsewhere.
#[test]
fn redirects_are_not_followed() {
    let elsewhere = Peer::answering(OK);
    for status in [301, 302, 303, 307, 308] {
        let location = elsewhere.url();
        let peer = Peer::answering(format!(
            "HTTP/1.1 {status} Moved\r\nLocation: {location}/x\r\nContent-Length: 0\r\n\r\n"
        ));
        let client = Client::new(&peer.url(), DEADLINE);
        assert_eq!(client.post("/replicate", b"{}").unwrap().status, status);
        assert_eq!(client.get("/health").unwrap().status, status);
    }
    assert_eq!(elsewhere.accepted(), 0);
}

/// Goal: what is no HTTP, or is cut off, is an error with a reason.
#[test]
fn rubbish_and_cut_off_answers_are_errors() {
    let answers = [
        ("rubbish\r\n\r\n", "not an HTTP answer"),
        ("HTTP/1.1 two hundred\r\n\r\n", "not an HTTP answer"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut off", "connection broken"),
        ("HTTP/1.1 200 OK\r\nContent-Le", "connection broken"),
    ];
    for (answer, expected) in answers {
        let peer = Peer::start(move |_, mut connection| {
            connection.request();
            connection.send(answer);
        });
        let reason = failure_within_the_timeout(&peer);
        assert!(reason.starts_with(expected), "{answer:?}: {reason}");
    }
}

/// Goal: an answer that would fill the memory is not read.
#[test]
fn an_endless_answer_is_given_up() {
    let peer = Peer::start(|_, mut connection| {
        connection.request();
        let piece = "x".repeat(1 << 20);
        connection.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        while connection.send(&piece) {}
    });
    // A busy machine takes its time for so much.
    let client = Client::new(&peer.url(), 6 * DEADLINE);
    let errors =
        [client.get("/messages"), client.post("/replicate", b"{}")].map(Result::unwrap_err);
    let limits = [64 << 20, 1 << 20].map(|most| format!("an answer of more than {most} bytes"));
    assert_eq!(errors, limits);
}

/// Goal: a port that nobody listens on, and a name that nobody has, are told in plain words.
#[test]
fn failures_to_connect_are_told_plainly() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = Client::new(&format!("http://{address}"), DEADLINE).get("/health").unwrap_err();
    assert_eq!(error.to_string(), "connection refused");
    let start = Instant::now();
    let client = Client::new("http://no-such-node.invalid:8001", Duration::from_secs(2));
    let reason = client.get("/health").unwrap_err().to_string();
    // The second when the machine's resolver asks servers that do not answer.
    let plain = ["its name does not resolve", "its name did not resolve in time"];
    assert!(plain.contains(&reason.as_str()), "{reason}");
    assert!(start.elapsed() < DEADLINE / 2, "it took {:?}", start.elapsed());
}

/// Goal: a name with several addresses is reached by the one that answers.
#[test]
fn a_name_is_resolved_and_reached() {
    let peer = Peer::answering(OK);
    let client = Client::new(&format!("http://localhost:{}", peer.address.port()), DEADLINE);
    for _ in 0..5 {
        assert_eq!(client.get("/health").unwrap().status, 200);
    }
    assert_eq!(peer.accepted(), 1);
}

/// Goal: a proxy that the environment names is not used between nodes.
#[test]
fn a_proxy_of_the_environment_is_not_used() {
    const NODE: &str = "TEST_NODE_BEHIND_NO_PROXY";
    if let Ok(url) = std::env::var(NODE) {
        assert_eq!(Client::new(&url, DEADLINE).get("/health").unwrap().status, 200);
        return;
    }
    // This test again, in a process whose environment names a proxy.
    let (peer, proxy) = (Peer::answering(OK), Peer::answering(OK));
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "a_proxy_of_the_environment_is_not_used"]).env(NODE, peer.url());
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        child.env(name, proxy.url());
    }
    child.env_remove("NO_PROXY").env_remove("no_proxy");
    let output = child.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!((peer.requests(), proxy.accepted()), (1, 0));
}

/// Goal: calls made at the same time keep their connections for the next ones.
#[test]
fn calls_made_at_the_same_time_reuse_their_connections() {
    let peer = Peer::answering(OK);
    let client = Client::new(&peer.url(), DEADLINE);
    let together = Barrier::new(32);
    thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                for _ in 0..20 {
                    together.wait();
                    assert_eq!(client.post("/replicate", b"{}").unwrap().status, 200);
                }
            });
        }
    });
    assert_eq!(peer.requests(), 32 * 20);
    assert!(peer.accepted() <= 32, "{} connections for 32 callers", peer.accepted());
}

/// Goal: calls arrive at our own server as they were made, however long.
#[test]
fn calls_arrive_as_they_were_made() {
    let node = Node::start(WIDE);
    let client = Client::new(&format!("http://{}", node.address), DEADLINE);
    for length in [0, 1, 1024, 1025, 1 << 20] {
        let body = vec![b'x'; length];
        let answer = client.post("/echo", &body).unwrap();
        assert!(answer.status == 200 && answer.body == body, "{length} bytes");
    }
    assert_eq!(client.post("/echo", &vec![b'x'; (1 << 20) + 1]).unwrap().status, 413);
    assert_eq!(client.get("/hello").unwrap().status, 200);
}

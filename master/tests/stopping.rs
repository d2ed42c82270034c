//! Stopping: SIGTERM and SIGINT let what is in progress finish, within a bounded time, and end the
//! process with exit code 0.

mod support;

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use support::cluster::Cluster;
use support::node::Node;
use support::{SOON, wait_until};

/// Sends the signal to the master while a POST is blocked. Returns the status that the POST got,
/// `None` if the connection ended without one, and how long the stop took.
fn stop_while_posting(cluster: &mut Cluster, signal: &str) -> (Option<u16>, Duration) {
    let mut connection = cluster.master.connect();
    thread::scope(|scope| {
        let post = scope.spawn(move || {
            let answer = connection.try_send("POST", "/messages", &[], r#"{"msg":"last"}"#);
            answer.ok().map(|answer| answer.status)
        });
        wait_until("appended", SOON, || {
            let log = cluster.master.log();
            if log == ["last"] { Ok(()) } else { Err(format!("{log:?}")) }
        });
        let start = Instant::now();
        cluster.master.signal(signal);
        assert_eq!(cluster.master.exit_code(SOON), Some(0), "after SIG{signal}");
        let took = start.elapsed();
        (post.join().expect("the client does not fail"), took)
    })
}

#[test]
fn requests_in_progress_finish() {
    // Goal: SIGTERM and SIGINT: a POST that waits for a slow secondary gets its 201, then the
    // node ends with exit code 0 and says so.
    for signal in ["TERM", "INT"] {
        let mut cluster = Cluster::start(&[&[("DELAY_MS", "800")], &[]], &[]);
        let (status, took) = stop_while_posting(&mut cluster, signal);
        assert_eq!(status, Some(201), "after SIG{signal}");
        assert!(took < Duration::from_secs(4), "{took:?}");
        let line = cluster.master.wait_for_line("] stopping ");
        assert!(line.contains(&format!("reason=SIG{signal} in_flight=")), "{line}");
        cluster.master.wait_for_line("] stopped unfinished=0");
        for secondary in &cluster.secondaries {
            assert_eq!(secondary.log(), ["last"]);
        }
    }
}

#[test]
fn a_stop_ends_in_time() {
    // Goal: the exit code is 0 when SHUTDOWN_TIMEOUT_MS is over, whatever is still in progress.
    let timeout = Duration::from_millis(500);
    let settings = [("SHUTDOWN_TIMEOUT_MS", "500")];
    let mut cluster = Cluster::start(&[&[("DELAY_MS", "20000")]], &settings);
    let (status, took) = stop_while_posting(&mut cluster, "TERM");
    assert_eq!(status, None, "answered before the delay was over");
    assert!(took >= timeout && took < timeout + Duration::from_secs(2), "{took:?}");
    cluster.master.wait_for_line("] stopped unfinished=1");
}

/// Stops the secondary while it sleeps its delay in a call. Returns how many requests it had in
/// progress when it was told to stop, and the status of the POST.
fn stop_secondary_while_posting() -> (String, u16) {
    let mut cluster = Cluster::start(&[&[("DELAY_MS", "400")]], &[("HEARTBEAT_MS", "600000")]);
    // After this the first heartbeat is over, and no other request will reach the secondary.
    cluster.post("first");
    let mut connection = cluster.master.connect();
    thread::scope(|scope| {
        let post = scope.spawn(move || connection.post_message("second"));
        wait_until("appended", SOON, || {
            let log = cluster.master.log();
            if log.len() == 2 { Ok(()) } else { Err(format!("{log:?}")) }
        });
        let secondary = &mut cluster.secondaries[0];
        secondary.signal("TERM");
        assert_eq!(secondary.exit_code(SOON), Some(0));
        let line = secondary.wait_for_line("] stopping ");
        let in_flight = line.split("in_flight=").nth(1).unwrap_or_default().to_string();
        (in_flight, post.join().expect("there is an answer").status)
    })
}

#[test]
fn a_secondary_finishes_its_call() {
    // Goal: a call that sleeps its delay is stored and acknowledged before the secondary ends, so
    // the client of the master notices nothing. A signal that overtakes the call shows nothing.
    for _ in 0..10 {
        let (in_flight, status) = stop_secondary_while_posting();
        if in_flight == "1" {
            assert_eq!(status, 201);
            return;
        }
    }
    panic!("the signal overtook every call");
}

#[test]
fn an_idle_node_stops_at_once() {
    // Goal: neither kept connections nor the calls of a heartbeat hold it up, and from then on
    // connections are refused.
    let mut cluster = Cluster::start(&[&[], &[]], &[]);
    let mut kept = cluster.master.connect();
    assert_eq!(kept.post_message("m").status, 201);
    let start = Instant::now();
    let stop = |node: &mut Node, signal| {
        node.signal(signal);
        assert_eq!(node.exit_code(SOON), Some(0), "after SIG{signal}");
        assert!(TcpStream::connect(node.addr()).is_err(), "something listens there");
    };
    stop(&mut cluster.master, "TERM");
    cluster.secondaries.iter_mut().for_each(|secondary| stop(secondary, "INT"));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn a_stopping_node_refuses_new_requests() {
    // Goal: a kept connection learns that the node is stopping, and that its message is not in
    // the log; the request that was there before is not disturbed by that.
    let mut cluster = Cluster::start(&[&[("DELAY_MS", "2500")]], &[]);
    let [mut early, mut late] = [cluster.master.connect(), cluster.master.connect()];
    cluster.wait_until_ready();
    assert_eq!(late.send("GET", "/messages", "").status, 200);
    thread::scope(|scope| {
        let post = scope.spawn(move || early.post_message("early"));
        wait_until("appended", SOON, || {
            let log = cluster.master.log();
            if log == ["early"] { Ok(()) } else { Err(format!("{log:?}")) }
        });
        cluster.master.signal("TERM");
        cluster.master.wait_for_line("] stopping ");
        wait_until("refusing", SOON, || match late.send("GET", "/messages", "").status {
            503 => Ok(()),
            status => Err(status),
        });
        let refused = late.post_message("late");
        assert_eq!(refused.seen(), (503, r#"{"error":"The node is stopping","stored":false}"#));
        assert!(refused.header("Retry-After").is_some());
        let answer = post.join().unwrap();
        assert_eq!((answer.status, answer.messages()), (201, vec!["early".to_string()]));
    });
    assert_eq!(cluster.master.exit_code(SOON), Some(0));
    assert_eq!(cluster.secondaries[0].log(), ["early"]);
}

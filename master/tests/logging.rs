//! Process text: one event a line, safe to show, and never in the way of the work.

mod support;

use std::process::Command;
use std::time::Duration;

use support::cluster::Cluster;
use support::node::{Node, Reading, Role};
use support::{SOON, at_once};

/// The time in UTC with this fraction, as the system's own tool tells it.
fn utc(fraction: &str) -> String {
    let format = format!("+%Y-%m-%dT%H:%M:%S.{fraction}Z");
    let output = Command::new("date").args(["-u", &format]).output().expect("date can be run");
    String::from_utf8(output.stdout).expect("it prints ASCII").trim().to_string()
}

/// Splits `TIME [LEVEL] [NAME] TEXT`.
fn parts(line: &str) -> (&str, &str, &str, &str) {
    let mut words = line.splitn(4, ' ');
    let mut next = || words.next().unwrap_or_else(|| panic!("not a log line: {line:?}"));
    (next(), next(), next(), next())
}

#[test]
fn every_line_has_time_level_and_name() {
    // Goal: the format, whatever the time zone, and text that cannot break a line or a terminal.
    let before = utc("000");
    let settings = [("TZ", "XYZ-7"), ("LOG_LEVEL", "debug")];
    let cluster = Cluster::start(
        &[&[&settings[..], &[("NODE_NAME", "copy#1")]].concat()],
        &[&settings[..], &[("NODE_NAME", "first")]].concat(),
    );
    cluster.post("line\nbreak \u{1b}[31m \u{9b}31m \r\0 \u{7f}");
    cluster.master.wait_for_line("] appended seq=1 ");
    cluster.secondaries[0].wait_for_line("] accepted seq=1 ");
    for (node, name) in cluster.nodes().zip(["[first]", "[copy#1]"]) {
        let printed = node.printed();
        let after = utc("999");
        for line in printed {
            let (time, level, node_name, text) = parts(&line);
            assert_eq!(time.len(), before.len(), "{line:?}");
            let in_time = *time >= *before && *time <= *after;
            assert!(in_time, "{line:?} is not from {before} to {after}");
            assert!(["[INFO]", "[DEBUG]"].contains(&level), "{line:?}");
            assert_eq!(node_name, name, "{line:?}");
            assert!(!text.is_empty() && !line.chars().any(char::is_control), "{line:?}");
        }
        let shown = r#"msg="line\nbreak \u001b[31m \u{9b}31m \r\u0000 \u{7f}""#;
        assert!(node.wait_for_line("seq=1 msg=").contains(shown));
    }
    cluster.master.wait_for_line("[DEBUG] [first] called secondary=http://127.0.0.1:");
}

#[test]
fn message_text_is_cut_after_80_characters() {
    // Goal: a long message does not flood the log lines; a cut is visible as such.
    let master = Node::master(&[], &[]);
    let shown = |length: usize| {
        let seq = master.post_message(&"é".repeat(length)).seq();
        let line = master.wait_for_line(&format!("] appended seq={seq} "));
        line.split(" msg=").nth(1).unwrap().split(' ').next().unwrap().to_string()
    };
    let eighty = "é".repeat(80);
    assert_eq!(shown(80), format!("\"{eighty}\""));
    assert_eq!(shown(81), format!("\"{eighty}…\""));
    assert_eq!(shown(100_000), format!("\"{eighty}…\""));
}

#[test]
fn each_level_shows_what_it_should() {
    // Goal: the first line has the settings. An accepted write is shown at info, a call at debug
    // only, and at warn not even the write.
    let cluster = Cluster::start(&[&[("DELAY_MS", "1")]], &[("ACK_TIMEOUT_MS", "4321")]);
    cluster.post("m");
    cluster.master.wait_for_line("[INFO] [master] appended seq=1 msg=\"m\"");
    let printed = cluster.master.printed();
    let url = cluster.secondaries[0].url();
    for setting in [&format!("secondaries={url}"), "ack_timeout_ms=4321", "role=master"] {
        assert!(printed[0].contains(setting), "{setting} is not in {:?}", printed[0]);
    }
    assert!(printed.iter().all(|line| !line.contains("called")), "{printed:?}");
    let name = format!("[secondary-{}] ", cluster.secondaries[0].addr().port());
    let first = &cluster.secondaries[0].printed()[0];
    assert!(first.contains(&name) && first.contains("delay_ms=1"), "{first:?}");
}

#[test]
fn each_request_is_a_line_at_debug() {
    // Goal: refused ones too, and at info none.
    let settings = [("LOG_LEVEL", "debug"), ("MAX_MESSAGE_BYTES", "40")];
    let cluster = Cluster::start(&[&[]], &settings);
    cluster.post("m");
    assert_eq!(cluster.master.get("/nothing?at=all").status, 404);
    assert_eq!(cluster.master.post_message(&"x".repeat(1000)).status, 413);
    let mut connection = cluster.master.connect();
    connection.try_send("HEAD", "/messages/stream", &[], "").unwrap_err();
    for (request, status) in [
        (r#"method="POST" path="/messages""#, 201),
        (r#"method="GET" path="/nothing""#, 404),
        (r#"method="POST" path="/messages""#, 413),
        (r#"method="HEAD" path="/messages/stream""#, 200),
    ] {
        let begins = format!("[DEBUG] [master] answered {request} status={status} bytes=");
        let line = cluster.master.wait_for_line(&begins);
        assert!(line.contains(" duration_ms=") && line.contains(" peer=127.0.0.1:"), "{line}");
        assert!(!line.contains(" bytes=0 "), "{line}");
    }
    let of_secondary = cluster.secondaries[0].printed();
    assert!(of_secondary.iter().all(|line| !line.contains("answered")), "{of_secondary:?}");
}

/// Posts this many messages from eight kept connections, and expects that none takes long.
fn post_many(master: &Node, count: usize) {
    at_once(8, |client| {
        let mut connection = master.connect();
        for number in 0..count / 8 {
            let answer = connection.post_message_briefly(&format!("{client}:{number}"));
            assert_eq!(answer.status, 201, "{}", answer.text());
            assert!(answer.took < Duration::from_secs(5), "a POST took {:?}", answer.took);
        }
    });
}

#[test]
fn a_stalled_reader_of_stdout_blocks_nobody() {
    // Goal: the pipe and the queue before it are full. Requests are served as before, lines are
    // dropped, and when somebody reads again the log says how many.
    let master = Node::master(&[], &[("LOG_LEVEL", "debug")]);
    master.set_reading(Reading::Paused);
    post_many(&master, 11_200);
    master.set_reading(Reading::All);
    let line = master.wait_for_line(" lines dropped: ");
    let dropped = line.split(' ').find_map(|word| word.parse::<usize>().ok());
    assert!(dropped.is_some_and(|dropped| dropped > 0), "{line}");
    assert_eq!(master.post_message("read again").status, 201);
    master.wait_for_line("\"read again\"");
}

#[test]
fn a_node_stops_although_nobody_reads_its_stdout() {
    // Goal: the last lines cannot be written; that does not hold up the end.
    for role in [Role::Master, Role::Secondary] {
        let mut node = Node::start(role, &[]);
        node.set_reading(Reading::Paused);
        let path = if role == Role::Master { "/messages" } else { "/replicate" };
        let mut connection = node.connect();
        for _ in 0..1500 {
            let sent = connection.try_send("POST", path, &["Prefer: return=minimal"], LONG_MESSAGE);
            assert!([200, 201].contains(&sent.unwrap().status));
        }
        node.signal("TERM");
        assert_eq!(node.exit_code(Duration::from_secs(6)), Some(0));
    }
}

const LONG_MESSAGE: &str =
    r#"{"msg":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}"#;

#[test]
fn a_closed_stdout_ends_nothing() {
    // Goal: a closed pipe is nobody to tell anything to, and no reason to end.
    let mut master = Node::master(&[], &[]);
    master.set_reading(Reading::Closed);
    let before = master.printed().len();
    for number in 0..20 {
        assert_eq!(master.post_message(&format!("m{number}")).status, 201);
    }
    let read = master.printed().len() - before;
    assert!(read <= 1, "the pipe is open: {read} lines");
    assert!(!master.has_ended());
    master.signal("TERM");
    assert_eq!(master.exit_code(SOON), Some(0));
}

//! The process: settings, exit codes, `healthcheck`.

mod support;

use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::json;
use support::node::{Node, Port, Role, Settings};

const BOTH: [Role; 2] = [Role::Master, Role::Secondary];

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("a node prints UTF-8")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("a node prints UTF-8")
}

#[test]
fn all_wrong_settings_are_reported_at_once() {
    // Goal: one line each on stderr with the name and the value, exit code 2, nothing on stdout.
    let common = [
        ("PORT", "65536"),
        ("LOG_LEVEL", "loud"),
        ("MAX_IN_FLIGHT", "0"),
        ("MAX_MESSAGE_BYTES", "1e6"),
        ("READ_TIMEOUT_MS", "-1"),
        ("SHUTDOWN_TIMEOUT_MS", "5s"),
        ("NODE_NAME", "two words"),
    ];
    let of_master = [
        ("SECONDARIES", "https://a:1,http://b:2,http://b:2/,c"),
        ("ACK_TIMEOUT_MS", "0"),
        ("HEARTBEAT_MS", "often"),
    ];
    let of_secondary = [("DELAY_MS", "1.5")];
    let cases: [(Role, Settings, usize); 2] =
        [(Role::Master, &of_master, 12), (Role::Secondary, &of_secondary, 8)];
    for (role, own, lines) in cases {
        let settings = [&common[..], own].concat();
        let output = role.run(&settings, &[]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert_eq!((said.lines().count(), stdout(&output)), (lines, ""), "{said}");
        for (name, value) in settings {
            let value = value.split(',').next().unwrap();
            let told = |line: &str| line.contains(name) && line.contains(value);
            assert!(said.lines().any(told), "{name}={value} is not in:\n{said}");
        }
        let prefix = format!("{}: ", role.name());
        assert!(said.lines().all(|line| line.starts_with(&prefix)), "{said}");
    }
}

#[test]
fn an_unknown_flag_is_refused() {
    // Goal: a typing error does not start a node.
    for role in BOTH {
        let output = role.run(&[("PORT", "0")], &["--prot", "0"]);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains("--prot"), "{}", stderr(&output));
    }
}

#[test]
fn help_and_version_are_told_whatever_the_settings() {
    // Goal: both exit 0; the help names every setting with its environment variable and default.
    let common = [
        "PORT",
        "HOST",
        "NODE_NAME",
        "LOG_LEVEL",
        "MAX_IN_FLIGHT",
        "MAX_MESSAGE_BYTES",
        "READ_TIMEOUT_MS",
        "SHUTDOWN_TIMEOUT_MS",
        "DATA_DIR",
        "MAX_LOG_BYTES",
    ];
    let own: [&[&str]; 2] = [&["SECONDARIES", "ACK_TIMEOUT_MS", "HEARTBEAT_MS"], &["DELAY_MS"]];
    for (role, own) in BOTH.into_iter().zip(own) {
        let help = role.run(&[("PORT", "wrong")], &["--help"]);
        assert_eq!((help.status.code(), stderr(&help)), (Some(0), ""));
        assert!(stdout(&help).contains("\nExample"), "{}", stdout(&help));
        for name in common.iter().chain(own) {
            let flag = format!("--{}", name.to_lowercase().replace('_', "-"));
            assert!(stdout(&help).contains(&flag), "{flag} is not in:\n{}", stdout(&help));
            let variable = format!("[env: {name}=");
            assert!(stdout(&help).contains(&variable), "{name} is not in:\n{}", stdout(&help));
        }
        let version = role.run(&[], &["--version"]);
        assert_eq!((version.status.code(), stderr(&version)), (Some(0), ""));
        assert_eq!(stdout(&version), format!("{} {}\n", role.name(), env!("CARGO_PKG_VERSION")));
    }
}

/// What the first line of a node says, for settings and flags with which it starts.
fn started(settings: Settings, args: &[&str]) -> String {
    let node = Node::start_with(Role::Secondary, settings, args);
    let line = node.wait_for_line("] started ");
    assert_eq!(node.health()["status"], "ok");
    line.split("] started ").nth(1).unwrap_or_default().to_string()
}

#[test]
fn a_flag_wins_over_its_environment_variable() {
    // Goal: every setting can be given either way and means the same; an empty or blank variable
    // counts as absent.
    let by_environment = started(&[("DELAY_MS", "7"), ("READ_TIMEOUT_MS", "900")], &[]);
    assert!(by_environment.contains("delay_ms=7 "), "{by_environment}");
    assert!(by_environment.contains("read_timeout_ms=900 "), "{by_environment}");
    let flags = ["--delay-ms", "7", "--read-timeout-ms=900"];
    assert_eq!(started(&[], &flags), by_environment);
    assert_eq!(started(&[("DELAY_MS", "8"), ("READ_TIMEOUT_MS", "x")], &flags), by_environment);
    let blank = [("DELAY_MS", ""), ("READ_TIMEOUT_MS", "  "), ("LOG_LEVEL", ""), ("HOST", "")];
    assert_eq!(started(&blank, &[]), started(&[], &[]));
    assert_eq!(started(&[("DELAY_MS", " 7 "), ("READ_TIMEOUT_MS", "900")], &[]), by_environment);
}

#[test]
fn secondaries_are_tolerant_of_blanks_and_slashes() {
    // Goal: the list is trimmed; its URLs are shown and used without a slash at the end.
    let secondaries = [Node::secondary(&[]), Node::secondary(&[])];
    let urls = [secondaries[0].url(), secondaries[1].url()];
    let list = format!(" {}/ , ,{}// ,", urls[0], urls[1]);
    let master = Node::master(&[&list], &[]);
    assert_eq!(master.health()["secondaries"], json!(urls));
    assert_eq!(master.post_message("m").status, 201);
}

#[test]
fn a_port_in_use_ends_the_start() {
    // Goal: exit code 1, and the line names the address and the reason.
    let other = Node::secondary(&[]);
    let port = other.addr().port().to_string();
    for role in BOTH {
        let output = role.run(&[("PORT", &port)], &[]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let prefix = format!("{}: cannot start on 127.0.0.1:{port}: ", role.name());
        assert!(stderr(&output).starts_with(&prefix), "{}", stderr(&output));
        assert!(stderr(&output).contains("in use"), "{}", stderr(&output));
        assert_eq!((stderr(&output).lines().count(), stdout(&output)), (1, ""));
    }
    let nowhere = Role::Secondary.run(&[("HOST", "192.0.2.1"), ("PORT", "0")], &[]);
    assert_eq!(nowhere.status.code(), Some(1), "{}", stderr(&nowhere));
}

#[test]
fn healthcheck_tells_whether_a_node_is_well() {
    // Goal: exit code 0 if it answers, 1 and a line that says why if it does not.
    for role in BOTH {
        let node = Node::start(role, &[]);
        let port = node.addr().port().to_string();
        let ask = || role.run(&[("PORT", &port), ("HOST", "0.0.0.0")], &["healthcheck"]);
        let well = ask();
        assert_eq!((well.status.code(), stdout(&well), stderr(&well)), (Some(0), "", ""));
        node.freeze();
        let start = Instant::now();
        let frozen = ask();
        assert_eq!(frozen.status.code(), Some(1), "{}", stderr(&frozen));
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
    let nobody = Port::reserve(0);
    let port = nobody.url().rsplit(':').next().unwrap().to_string();
    let output = Role::Master.run(&[("PORT", &port)], &["healthcheck"]);
    let expected = format!("master: http://127.0.0.1:{port}/health: connection refused\n");
    assert_eq!((output.status.code(), stderr(&output)), (Some(1), expected.as_str()));
}

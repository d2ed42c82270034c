//! Promise: called wrongly, a program says so in one line and exits with 2; asked for help, it
//! helps.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::process::Command;

use echo::{client, server};

use crate::harness::{
    Server, assert_failed, assert_printed, client_command, finish, server_command,
};

fn run<S: AsRef<OsStr>>(mut command: Command, args: &[S]) -> std::process::Output {
    command.args(args);
    finish(command)
}

#[test]
fn usage_errors_of_the_client() {
    // Goal: each wrong call of the client exits with 2 and one line that names what is wrong.
    let cases: [(&[&str], &str); 10] = [
        (&[], "got 0"),
        (&["localhost"], "got 1"),
        (&["localhost", "9009", "a", "b"], "got 4"),
        (&["localhost", "http"], "PORT must be a number from 1 to 65535, got \"http\""),
        (&["localhost", "0"], "PORT"),
        (&["localhost", "65536"], "PORT"),
        (&["localhost", "-1"], "PORT"),
        (&["localhost", ""], "PORT"),
        (&["localhost", "two\nlines"], "PORT"),
        (&["", "9009"], "HOST"),
    ];
    for (args, part) in cases {
        let output = run(client_command(), args);
        let line = assert_failed(&output, 2);
        assert!(line.contains(part) && line.contains("usage: echo-client"), "{args:?}: {line}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn usage_errors_of_the_server() {
    // Goal: each wrong call of the server exits with 2 and one line, and it does not listen.
    for args in [&["x"][..], &["65536"], &["-1"], &[""], &["--port"], &["0", "0"]] {
        let output = run(server_command(), args);
        let line = assert_failed(&output, 2);
        assert!(line.contains("usage: echo-server"), "{args:?}: {line}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[cfg(unix)]
#[test]
fn usage_errors_by_bytes_that_are_no_text() {
    // Goal: where text is needed, other bytes are a usage error and no panic.
    use std::os::unix::ffi::OsStrExt;
    let bytes = OsStr::from_bytes(b"\xff");
    assert_failed(&run(server_command(), &[bytes]), 2);
    assert_failed(&run(client_command(), &[bytes, OsStr::new("9009")]), 2);
    assert_failed(&run(client_command(), &[OsStr::new("localhost"), bytes]), 2);
    let mut with_host = server_command();
    with_host.env("HOST", bytes);
    assert_failed(&run(with_host, &["0"]), 2);
}

#[test]
fn help() {
    // Goal: --help prints the usage on stdout, exits with 0, and its numbers are the real ones.
    for flag in ["--help", "-h"] {
        let output = run(server_command(), &[flag]);
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert_printed(&output, text.as_bytes());
        assert!(text.starts_with("usage: echo-server [PORT]\n") && text.ends_with('\n'), "{text}");
        let limit = format!("up to {} connections", server::MOST_CONNECTIONS);
        assert!(text.contains(&limit), "{text}");

        let output = run(client_command(), &[flag]);
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert_printed(&output, text.as_bytes());
        assert!(text.starts_with("usage: echo-client HOST PORT [MESSAGE]\n"), "{text}");
        let timeout = format!("after {} seconds", client::TIMEOUT.as_secs());
        assert!(text.contains(&timeout), "{text}");
    }
    assert_eq!(server::IDLE.as_secs(), 10 * 60);
}

#[test]
fn where_the_server_listens() {
    // Goal: the server listens on 127.0.0.1 unless HOST says otherwise; an empty HOST says
    // nothing.
    assert_eq!(Server::start().address.ip().to_string(), "127.0.0.1");
    for (host, ip) in [("", "127.0.0.1"), ("0.0.0.0", "0.0.0.0")] {
        let mut command = server_command();
        command.arg("0").env("HOST", host);
        assert_eq!(Server::from_command(command).address.ip().to_string(), ip);
    }
}

#[test]
fn default_port() {
    // Goal: without an argument the server takes port 9009. It may be taken on this machine, and
    // then the one line about it names it.
    let held = TcpListener::bind("127.0.0.1:9009");
    let line = assert_failed(&run::<&str>(server_command(), &[]), 1);
    assert!(line.contains("127.0.0.1 port 9009"), "{line}");
    drop(held);
}

#[test]
fn server_that_cannot_listen() {
    // Goal: a port that is taken, or a HOST that is not of this machine, exits with 1.
    let server = Server::start();
    let line = assert_failed(&run(server_command(), &[server.address.port().to_string()]), 1);
    assert!(line.contains("cannot listen on 127.0.0.1 port"), "{line}");
    let mut elsewhere = server_command();
    // TEST-NET-1 of RFC 5737: no machine has this address.
    elsewhere.env("HOST", "192.0.2.1");
    assert_failed(&run(elsewhere, &["0"]), 1);
}

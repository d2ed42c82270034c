//! What every test here needs: a server that ends with the test, a client that cannot hang it.

use std::env;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use echo::{Stop, client};

/// How long a test waits for what should happen soon, even on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A process of this test: killed and waited for when the test ends, however it ends.
pub(crate) struct Guard(pub(crate) Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running `echo-server`.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) process: Guard,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Server {
    /// Starts a server on a port of the system's choice.
    pub(crate) fn start() -> Server {
        let mut command = server_command();
        command.arg("0");
        Server::from_command(command)
    }

    /// Starts a server by `command`, and waits until it says where it listens.
    pub(crate) fn from_command(mut command: Command) -> Server {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the server starts");
        let lines = lines_of(child.stdout.take().expect("stdout is piped"));
        let process = Guard(child);
        let first = lines.recv_timeout(DEADLINE).expect("the server prints a first line");
        let address = first.strip_prefix("listening on ").map(str::parse);
        let address = address.unwrap_or_else(|| panic!("first line: {first:?}"));
        let address = address.unwrap_or_else(|error| panic!("first line: {first:?}: {error}"));
        Server { address, process, lines, seen: vec![first] }
    }

    /// A plain connection to the server.
    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// Sends `message` as the client does, from this process, and returns what comes back.
    pub(crate) fn exchange(&self, message: &[u8]) -> Result<Vec<u8>, Stop> {
        let mut reply = Vec::new();
        client::exchange(&self.connect(), message, &mut reply).map(|()| reply)
    }

    /// Waits for the next line of the server's output that has `part` in it.
    pub(crate) fn wait_for_line(&mut self, part: &str) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no line with {part:?}; the server printed: {:#?}", self.seen);
            };
            self.seen.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
    }

    /// The lines of the server's output up to the last one waited for.
    pub(crate) fn lines_seen(&self) -> impl Iterator<Item = &str> {
        self.seen.iter().map(String::as_str)
    }
}

/// A plain connection, on which to read or to write fails when it takes too long.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_read_timeout(Some(DEADLINE)).expect("the timeout is not zero");
    stream.set_write_timeout(Some(DEADLINE)).expect("the timeout is not zero");
    stream
}

/// The real server, with an environment that does not change where it listens.
pub(crate) fn server_command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_echo-server"));
    command.env_remove("HOST").stdin(Stdio::null());
    command
}

/// The real client, still without arguments.
pub(crate) fn client_command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_echo-client"))
}

/// The lines of `output`, as they come.
pub(crate) fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Runs the real client against `address` with these further arguments.
pub(crate) fn client<S: AsRef<OsStr>>(address: SocketAddr, message: &[S]) -> Output {
    let mut command = client_command();
    command.arg(address.ip().to_string()).arg(address.port().to_string()).args(message);
    finish(command)
}

/// Runs `command` to its end and returns what it printed; kills it if that takes too long.
pub(crate) fn finish(mut command: Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Guard(command.spawn().expect("the program starts"));
    let stdout = read_all(process.0.stdout.take().expect("stdout is piped"));
    let stderr = read_all(process.0.stderr.take().expect("stderr is piped"));
    let stdout = stdout.recv_timeout(DEADLINE).expect("the program ends its stdout in time");
    let stderr = stderr.recv_timeout(DEADLINE).expect("the program ends its stderr in time");
    Output { status: process.0.wait().expect("the program ends"), stdout, stderr }
}

/// Runs `body` in a process of its own that may open 4 096 descriptors, where many systems allow
/// 1 024. `test` is the full name of the calling test: the process is this one again.
pub(crate) fn with_many_descriptors(test: &str, body: impl FnOnce()) {
    const INNER: &str = "ECHO_TEST_HAS_DESCRIPTORS";
    if env::var_os(INNER).is_some() {
        return body();
    }
    let mut command = Command::new("sh");
    let script = "ulimit -S -n 4096 && exec \"$0\" --exact \"$1\" --nocapture";
    command
        .args(["-c", script])
        .arg(env::current_exe().expect("the test has a file"))
        .arg(test)
        .env(INNER, "yes");
    let output = finish(command);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stdout.contains("1 passed"), "{stdout}{stderr}");
    assert!(output.status.success(), "{stdout}{stderr}");
}

fn read_all(mut output: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = output.read_to_end(&mut bytes);
        let _ = sender.send(read.map(|_| bytes).expect("a pipe can be read"));
    });
    receiver
}

/// Asserts that the client succeeded silently and printed this reply as a line.
pub(crate) fn assert_reply(output: &Output, reply: &[u8]) {
    assert_printed(output, &[reply, b"\n"].concat());
}

/// Asserts that the program succeeded silently and printed exactly `expected`.
pub(crate) fn assert_printed(output: &Output, expected: &[u8]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    assert_eq!(stderr, "");
    // Not assert_eq: nobody reads two arrays of a hundred thousand numbers.
    let (length, wanted) = (output.stdout.len(), expected.len());
    assert!(output.stdout == expected, "{length} bytes printed instead of the {wanted} expected");
}

/// Asserts that the program failed with `code` and one line on stderr, and returns that line.
pub(crate) fn assert_failed(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "stderr: {stderr:?}");
    assert_eq!(stderr.lines().count(), 1, "stderr: {stderr:?}");
    assert!(stderr.ends_with('\n'), "stderr: {stderr:?}");
    stderr
}

/// Starts a server of the test's own that treats its one connection with `treat`.
pub(crate) fn fake_server(treat: impl FnOnce(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("a bound listener has an address");
    thread::spawn(move || treat(listener.accept().expect("the client connects").0));
    address
}

/// `length` bytes that do not repeat in step with any buffer.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    let block: Vec<u8> = (0..251).collect();
    let mut bytes = block.repeat(length / block.len() + 1);
    bytes.truncate(length);
    bytes
}

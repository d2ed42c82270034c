//! Processes that are measured: ours, and those we are compared with.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use common::client::Client;
use serde_json::Value;

use crate::load::Protocol;
use crate::peers::wait_until;

/// A process that is killed when it is no longer needed.
pub struct Node {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Node {
    /// Starts a node of ours that logs no more than the others do: what goes wrong.
    pub fn start(command: &mut Command) -> Node {
        let [address] = free_addresses();
        Node::start_on(command, address)
    }

    /// The same, at this address.
    pub fn start_on(command: &mut Command, address: SocketAddr) -> Node {
        command.env("PORT", address.port().to_string()).env("LOG_LEVEL", "warn");
        Node::start_at(command, address)
    }

    /// Starts a process that says `ready addr=…` on its output, and more, which is read.
    pub fn start_telling(command: &mut Command) -> Node {
        command.env("PORT", "0").stdout(Stdio::piped());
        let mut child = command.spawn().expect("the node's binary has been built");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is a pipe")).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("ready addr=")?.1.parse().ok())
            .expect("the node gets ready");
        thread::spawn(move || lines.for_each(drop));
        Node { child, address }
    }

    /// A process that is going to listen at this address.
    pub fn start_later(command: &mut Command, address: SocketAddr) -> Node {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Node { child: quiet.spawn().expect("the program is installed"), address }
    }

    /// The same, once it accepts connections there.
    pub fn start_at(command: &mut Command, address: SocketAddr) -> Node {
        let (node, start) = (Node::start_later(command, address), Instant::now());
        while std::net::TcpStream::connect(address).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "{address} does not answer");
            thread::sleep(Duration::from_millis(20));
        }
        node
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The CPU time that it has used.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.expect("the process lives");
        // Behind the name, which may hold anything, in brackets: state is field 3, utime 14.
        let fields: Vec<&str> =
            stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
        let ticks: u64 = [11, 12].iter().filter_map(|at| fields[*at].parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Its memory in bytes.
    pub fn memory(&self) -> u64 {
        self.status("VmRSS:").expect("the process lives")
    }

    /// The most memory that it has had, in bytes; `None` when it has ended.
    pub fn peak_memory(&self) -> Option<u64> {
        self.status("VmHWM:")
    }

    fn status(&self, field: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
        Some(kilobytes * 1024)
    }

    /// Whether it has not ended.
    pub fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it this signal and waits until it has ended.
    pub fn end(&mut self, signal: &str) {
        let id = self.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIG{signal} could not be sent to {id}");
        wait_until("at its end", || self.child.try_wait().is_ok_and(|status| status.is_some()));
    }

    /// Ends it now.
    pub fn kill(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }

    /// What it answers to this, as JSON.
    pub fn get(&self, path: &str) -> Value {
        let client = Client::new(&self.url(), Duration::from_secs(60));
        let answer = client.get(path).expect("the node answers");
        serde_json::from_slice(&answer.body).expect("it answers with JSON")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Three nodes that take appends at the first, and the directory that they may use.
pub struct Cluster {
    /// Where requests go comes first.
    pub nodes: Vec<Node>,
    /// How to talk to it.
    pub protocol: Box<dyn Protocol>,
    /// Removed in the end.
    pub directory: Option<PathBuf>,
}

impl Cluster {
    /// CPU time of all nodes.
    pub fn cpu(&self) -> Duration {
        self.nodes.iter().map(Node::cpu).sum()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.clear();
        if let Some(directory) = &self.directory {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

/// Addresses that nobody listened at a moment ago.
pub fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port is free"));
    listeners.map(|listener| listener.local_addr().expect("it is bound"))
}

/// A master and two secondaries of ours, and how they are started.
pub struct Ours {
    /// The directory of the two binaries.
    pub build: PathBuf,
    /// With `DATA_DIR`.
    pub on_disk: bool,
    /// Logging every append, as is the default.
    pub telling: bool,
}

impl Ours {
    /// As released, in memory, logging what goes wrong.
    pub fn new() -> Ours {
        let build = Path::new(env!("CARGO_BIN_EXE_master")).parent().expect("it is in a directory");
        Ours { build: build.to_path_buf(), on_disk: false, telling: false }
    }

    /// The binaries of another build, in the directory that `BESIDE` names.
    pub fn beside() -> Option<Ours> {
        let build = PathBuf::from(env::var_os("BESIDE").filter(|path| !path.is_empty())?);
        assert!(
            build.join("master").is_file(),
            "no master in BESIDE={}, which is to be an absolute path",
            build.display()
        );
        Some(Ours { build, ..Ours::new() })
    }

    /// Starts them.
    pub fn start(&self, protocol: impl Protocol + 'static) -> Cluster {
        let directory = self.on_disk.then(|| fresh_directory("ours"));
        let start = if self.telling { Node::start_telling } else { Node::start };
        let command = |program, name| self.command(program, name, directory.as_deref());
        let secondaries: Vec<Node> =
            ["first", "second"].map(|name| start(&mut command("secondary", name))).into();
        let master = start(command("master", "master").env("SECONDARIES", urls(&secondaries)));
        let mut cluster = with_master(master, secondaries, protocol);
        cluster.directory = directory;
        cluster
    }

    /// What starts this program, with its log in this directory if there is one.
    pub fn command(&self, program: &str, name: &str, directory: Option<&Path>) -> Command {
        let mut command = Command::new(self.build.join(program));
        if let Some(directory) = directory {
            command.env("DATA_DIR", directory.join(name));
        }
        command
    }
}

/// Our nodes as released, in memory.
pub fn ours(protocol: impl Protocol + 'static) -> Cluster {
    Ours::new().start(protocol)
}

/// The command that starts one of our binaries.
pub fn program(name: &str) -> Command {
    Command::new(Ours::new().build.join(name))
}

/// Secondaries of ours, in memory.
pub fn secondaries(count: usize) -> Vec<Node> {
    (0..count).map(|_| Node::start(&mut program("secondary"))).collect()
}

/// An empty directory for the processes that are measured.
pub fn fresh_directory(name: &str) -> PathBuf {
    let directory = env::temp_dir().join(format!("bench-{name}-{}", process::id()));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("the temporary directory can be written");
    directory
}

/// The base URLs, separated by commas.
pub fn urls(nodes: &[Node]) -> String {
    nodes.iter().map(Node::url).collect::<Vec<_>>().join(",")
}

/// A process that is this program in another role.
pub fn role(name: &str, of: &str) -> Node {
    let this = env::current_exe().expect("a running program has a path");
    Node::start_telling(Command::new(this).env("BENCH_ROLE", name).env("BENCH_OF", of))
}

/// A cluster of these.
pub fn with_master(
    master: Node,
    secondaries: Vec<Node>,
    protocol: impl Protocol + 'static,
) -> Cluster {
    let mut nodes = vec![master];
    nodes.extend(secondaries);
    Cluster { nodes, protocol: Box::new(protocol), directory: None }
}

//! Nodes as child processes: started, stopped, killed, frozen, restarted, and their output kept.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::{Value, json};

pub use super::binary::{Role, Settings};
use super::http::{Answer, Connection};
use super::output::Printed;
pub use super::output::Reading;
pub use super::port::Port;
use super::{SOON, wait_until};

/// One node. Killed when dropped; if the test is failing, everything it printed is shown.
#[derive(Debug)]
pub struct Node {
    role: Role,
    settings: Vec<(String, String)>,
    child: Child,
    addr: SocketAddr,
    printed: Printed,
    /// Holds the port while the node is down, so that nobody else gets it.
    reserved: Option<Port>,
}

impl Node {
    /// Starts a node on a port of its choice and waits until it is ready.
    pub fn start(role: Role, settings: Settings) -> Node {
        Node::start_with(role, settings, &[])
    }

    /// The same with flags.
    pub fn start_with(role: Role, settings: Settings, flags: &[&str]) -> Node {
        let settings = settings.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let mut settings: Vec<_> = settings.collect();
        settings.push(("PORT".into(), "0".into()));
        let printed = Printed::default();
        let (mut child, addr) = launch(role, &settings, flags, &printed);
        let addr = addr.unwrap_or_else(|why| {
            let _ = (child.kill(), child.wait());
            panic!("a {} did not start: {why}\n{}", role.name(), printed.lines().join("\n"))
        });
        Node { role, settings, child, addr, printed, reserved: None }
    }

    pub fn master(secondaries: &[&str], settings: Settings) -> Node {
        Node::master_with(secondaries, settings, &[])
    }

    /// A master that reigns at once, whoever does so now.
    pub fn usurper(secondaries: &[&str], settings: Settings) -> Node {
        Node::master_with(secondaries, settings, &["--takeover"])
    }

    fn master_with(secondaries: &[&str], settings: Settings, flags: &[&str]) -> Node {
        let urls = secondaries.join(",");
        // Secondaries that misbehave from the start should not hold up a test.
        let own = [("SECONDARIES", urls.as_str()), ("RECOVERY_TIMEOUT_MS", "300")];
        Node::start_with(Role::Master, &[&own[..], settings].concat(), flags)
    }

    pub fn secondary(settings: Settings) -> Node {
        Node::start(Role::Secondary, settings)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The time that processors have spent on the node, where the system says it: on Linux.
    pub fn cpu_time(&self) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // The name in parentheses may hold blanks. Two of the fields after it are hundredths of a
        // second, in user and in kernel mode.
        let fields = stat.rsplit_once(") ")?.1.split(' ');
        let ticks: u64 =
            fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Some(Duration::from_millis(10 * ticks))
    }

    /// The id of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Kills it without warning.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child of ours can be killed");
        self.child.wait().expect("a child of ours can be waited for");
        self.reserved = Some(Port::reserve(self.addr.port()));
        self.printed.push("… killed".into());
    }

    /// Starts it again on the same port, after it was killed or has stopped.
    pub fn restart(&mut self) {
        self.restart_with(&[]);
    }

    /// The same with flags.
    pub fn restart_with(&mut self, flags: &[&str]) {
        self.settings.retain(|(name, _)| name != "PORT");
        self.settings.push(("PORT".into(), self.addr.port().to_string()));
        let (role, settings, printed) = (self.role, &self.settings, self.printed.clone());
        self.child = wait_until("started again", SOON, || {
            let (mut child, addr) = launch(role, settings, flags, &printed);
            addr.inspect_err(|_| {
                let _ = (child.kill(), child.wait());
            })?;
            Ok::<_, String>(child)
        });
        self.reserved = None;
    }

    /// Freezes it: it accepts connections and answers nothing.
    pub fn freeze(&self) {
        self.signal("STOP");
        let tasks = format!("/proc/{}/task", self.child.id());
        wait_until("frozen", SOON, || {
            let states = states(Path::new(&tasks));
            if states.iter().all(|state| state == "T") { Ok(()) } else { Err(states.join(" ")) }
        });
        self.printed.push("… frozen".into());
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.printed.push("… going on".into());
        self.signal("CONT");
    }

    /// Sends a signal, as the `kill` command names it.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIG{name} could not be sent to {id}");
    }

    /// Waits until it has ended, and returns its exit code; `None` after a signal.
    pub fn exit_code(&mut self, within: Duration) -> Option<i32> {
        let status = wait_until("at its end", within, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        status.code()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Reads what it prints from now on, or does not.
    pub fn set_reading(&self, reading: Reading) {
        self.printed.set_reading(reading);
    }

    /// Every line that it has printed so far.
    pub fn printed(&self) -> Vec<String> {
        self.printed.lines()
    }

    /// Waits for a line that contains this text, and returns it.
    pub fn wait_for_line(&self, text: &str) -> String {
        wait_until(&format!("printed: {text}"), SOON, || {
            let lines = self.printed.lines();
            let found = lines.iter().find(|line| line.contains(text)).cloned();
            found.ok_or_else(|| lines.last().cloned().unwrap_or_default())
        })
    }

    /// A connection to it.
    pub fn connect(&self) -> Connection {
        Connection::open(self.addr)
            .unwrap_or_else(|e| panic!("{} cannot be reached: {e}", self.addr))
    }

    /// Sends one request on a connection of its own.
    pub fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        self.connect().send(method, path, body)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "")
    }

    /// Posts a message to a master.
    pub fn post_message(&self, message: &str) -> Answer {
        self.connect().post_message(message)
    }

    /// Posts a message that so many nodes are to hold within this time.
    pub fn post_to(&self, w: impl Into<Value>, message: &str, wtimeout: Duration) -> Answer {
        let ms = u64::try_from(wtimeout.as_millis()).expect("it is short");
        let body = json!({ "msg": message, "w": w.into(), "wtimeout": ms }).to_string();
        let answer =
            self.connect().try_send("POST", "/messages", &["Prefer: return=minimal"], &body);
        answer.unwrap_or_else(|error| panic!("no answer to {message}: {error}"))
    }

    /// Waits until `GET /ready` says that it is.
    pub fn wait_until_ready(&self) {
        wait_until("ready", SOON, || {
            let ready = self.get("/ready");
            if ready.status == 200 { Ok(()) } else { Err(ready.text().to_string()) }
        });
    }

    /// Waits until `GET /ready` says why it is not, with this text.
    pub fn wait_until_not_ready(&self, text: &str) {
        wait_until(&format!("not ready: {text}"), SOON, || {
            let ready = self.get("/ready");
            let is_so = ready.status == 503 && ready.text().contains(text);
            if is_so { Ok(()) } else { Err(ready.text().to_string()) }
        });
    }

    /// Its log, as `GET /messages` shows it; a master shows none while it recovers.
    pub fn log(&self) -> Vec<String> {
        let answer = wait_until("readable", SOON, || match self.get("/messages") {
            answer if answer.status == 503 => Err(answer.text().to_string()),
            answer => Ok(answer),
        });
        answer.messages()
    }

    /// What `GET /health` says.
    pub fn health(&self) -> Value {
        self.get("/health").json()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.set_reading(Reading::All);
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            println!("--- {} {}", self.role.name(), self.addr);
            self.printed.lines().iter().for_each(|line| println!("{line}"));
        }
    }
}

/// Starts the process and reads its address from the ready line.
fn launch(
    role: Role,
    settings: &[(String, String)],
    flags: &[&str],
    printed: &Printed,
) -> (Child, Result<SocketAddr, String>) {
    let mut command = role.command();
    command.envs(settings.iter().map(|(name, value)| (name, value))).args(flags);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("a node that was built can be started");
    let before = printed.lines().len();
    printed.clone().read(child.stdout.take().expect("it is piped"));
    printed.clone().read(child.stderr.take().expect("it is piped"));
    let deadline = Instant::now() + SOON;
    loop {
        let lines = printed.lines();
        let ready = lines[before..].iter().find_map(|line| line.split("] ready addr=").nth(1));
        if let Some(addr) = ready.and_then(|addr| addr.parse().ok()) {
            return (child, Ok(addr));
        }
        if let Ok(Some(status)) = child.try_wait() {
            return (child, Err(format!("it ended with {status}")));
        }
        if Instant::now() > deadline {
            return (child, Err("it did not say that it is ready".into()));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// The state of every thread of a process: `T` is stopped.
fn states(tasks: &Path) -> Vec<String> {
    let tasks = fs::read_dir(tasks).into_iter().flatten().flatten();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    // `ID (NAME) STATE …`, and the name may contain anything.
    let state = |stat: String| Some(stat.rsplit_once(") ")?.1.chars().next()?.to_string());
    stats.filter_map(state).collect()
}

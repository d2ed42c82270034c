//! How long nobody acknowledges a write after the node that leads has ended: two masters of ours
//! over two secondaries beside three members of etcd, in turn.
//!
//! The client is the same for both: plain HTTP on kept connections, for etcd through its JSON
//! gateway. Before a member ends all clients write to it, so that their distance to the leader is
//! the same too.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{fs, iter, thread};

use common::client::Client;
use common::locked::locked;
use serde_json::Value;
use ureq::Agent;
use ureq::http::HeaderValue;

use crate::etcd::{leads, members};
use crate::nodes::{Node, Ours, free_addresses, fresh_directory, urls};
use crate::peers::{Kept, SOON, installed, wait_for_one, wait_until};
use crate::report::{median, table};
use crate::rounds;

/// How many clients write at a time.
const WRITERS: usize = 8;

/// How long a client waits for an answer. A write that a follower of etcd has passed on to a leader
/// that is gone fails after 7 s; etcd's outage seems longer than it is by at most this time.
const PATIENCE: Duration = Duration::from_millis(100);

/// Between two tries of a client.
const PAUSE: Duration = Duration::from_millis(5);

/// So many writes are acknowledged before the leader ends, and after that by others.
const ENOUGH: usize = 500;

/// Nodes of which one leads and is ended.
struct Group {
    /// Those that may lead come first.
    nodes: Vec<Node>,
    may_lead: usize,
    /// Starts one of those, or starts it again.
    start: Box<dyn Fn(usize) -> Node>,
    leads: fn(&Node) -> bool,
    /// Whether this node has all that the leader has, and may lead when that one ends.
    stands_by: fn(&Node, leader: &Node) -> bool,
    path: &'static str,
    body: String,
    directory: PathBuf,
}

impl Drop for Group {
    fn drop(&mut self) {
        self.nodes.clear();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Two masters and two secondaries with default settings.
fn ours(kept: Kept) -> Group {
    let (all, directory) = (Ours::new(), fresh_directory("outage-ours"));
    let own = (kept == Kept::Disk).then(|| directory.clone());
    let command = move |role, name: String| all.command(role, &name, own.as_deref());
    let secondary = |n| Node::start(&mut command("secondary", format!("s{n}")));
    let secondaries: Vec<Node> = (0..2).map(secondary).collect();
    let (addresses, to) = (free_addresses::<2>(), urls(&secondaries));
    let start = move |n: usize| {
        let mut command = command("master", format!("m{n}"));
        Node::start_on(command.env("SECONDARIES", &to), addresses[n])
    };
    Group {
        nodes: (0..2).map(&start).chain(secondaries).collect(),
        may_lead: 2,
        start: Box::new(start),
        leads: |node| get(node, "/ready")["status"] == "ready",
        stands_by: |node, leader| {
            let (own, its) = (get(node, "/health"), get(leader, "/health"));
            get(node, "/ready")["master"] == leader.url() && own["last_seq"] == its["last_seq"]
        },
        path: "/messages",
        body: format!(r#"{{"msg":"{}","w":"majority"}}"#, "x".repeat(100)),
        directory,
    }
}

/// Three members of etcd with default settings.
fn etcd(kept: Kept) -> Group {
    let directory = fresh_directory("outage-etcd");
    let start = members(kept, &directory);
    Group {
        nodes: (0..3).map(&start).collect(),
        may_lead: 3,
        start: Box::new(start),
        leads,
        // It answers so after a read that a quorum has confirmed.
        stands_by: |node, _| get(node, "/health")["health"] == "true",
        path: "/v3/kv/put",
        // Base64, of 3 and of 102 bytes.
        body: format!(r#"{{"key":"mess","value":"{}"}}"#, "x".repeat(136)),
        directory,
    }
}

/// What a node answers, as JSON; `null` when it does not.
fn get(node: &Node, path: &str) -> Value {
    let answer = Client::new(&node.url(), SOON).get(path);
    answer.ok().and_then(|it| serde_json::from_slice(&it.body).ok()).unwrap_or_default()
}

impl Group {
    /// Ends the leader under load and starts it again. Returns for how long no write was
    /// acknowledged, by whomever, from the moment at which it was told to end.
    fn end_leader(&mut self, signal: &str) -> Duration {
        let candidates = &self.nodes[..self.may_lead];
        let leader = wait_for_one("led", candidates, self.leads);
        let clients = Clients {
            urls: candidates.iter().map(Node::url).collect(),
            path: self.path,
            body: &self.body,
            stop: AtomicBool::new(false),
            acks: Mutex::default(),
        };
        let since = thread::scope(|scope| {
            (0..WRITERS).for_each(|_| _ = scope.spawn(|| clients.write(leader)));
            clients.wait_for_acks(Instant::now(), |by| by == leader);
            let since = Instant::now();
            self.nodes[leader].end(signal);
            clients.wait_for_acks(Instant::now(), |by| by != leader);
            clients.stop.store(true, Relaxed);
            since
        });
        let outage = clients.longest_pause(since);
        self.nodes[leader] = (self.start)(leader);
        let next = wait_for_one("led again", &self.nodes[..self.may_lead], self.leads);
        wait_until("level", || (self.stands_by)(&self.nodes[leader], &self.nodes[next]));
        outage
    }
}

/// Clients that write one message after another, and when by which node each was acknowledged.
struct Clients<'a> {
    urls: Vec<String>,
    path: &'static str,
    body: &'a str,
    stop: AtomicBool,
    acks: Mutex<Vec<(Instant, usize)>>,
}

impl Clients<'_> {
    /// Writes to this node at first. Turns to the one that a node names, or to the next one when it
    /// gets no answer or another one.
    fn write(&self, leader: usize) {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let config = Agent::config_builder().timeout_global(Some(PATIENCE)).max_redirects(0);
        let agent = config.http_status_as_error(false).max_redirects_will_error(false).build();
        let agent = Agent::from(agent);
        let (mut at, start) = (leader, Instant::now());
        let mut key = COUNT.fetch_add(1, Relaxed);
        while !self.stop.load(Relaxed) && start.elapsed() < 3 * SOON {
            let request = agent.post(format!("{}{}", self.urls[at], self.path));
            let request = request.header("Idempotency-Key", key.to_string());
            let answer = request.content_type("application/json").send(self.body);
            // A connection is kept when all of the answer has been read.
            let answer = answer.and_then(|mut it| it.body_mut().read_to_vec().map(|_| it));
            if answer.as_ref().is_ok_and(|it| it.status().is_success()) {
                locked(&self.acks).push((Instant::now(), at));
                key = COUNT.fetch_add(1, Relaxed);
                continue;
            }
            let named = answer.ok().and_then(|it| self.named(it.headers().get("Location")?));
            at = named.unwrap_or((at + 1) % self.urls.len());
            thread::sleep(PAUSE);
        }
    }

    /// Which node a redirection leads to.
    fn named(&self, location: &HeaderValue) -> Option<usize> {
        let url = location.to_str().ok()?.strip_suffix(self.path)?;
        self.urls.iter().position(|it| it == url)
    }

    /// Waits until enough writes since then are acknowledged by such nodes.
    fn wait_for_acks(&self, since: Instant, is_meant: impl Fn(usize) -> bool) {
        wait_until("acknowledging", || {
            let acks = locked(&self.acks);
            acks.iter().filter(|(at, by)| *at > since && is_meant(*by)).count() >= ENOUGH
        });
    }

    /// The longest time without an acknowledgement, from this moment on.
    fn longest_pause(&self, since: Instant) -> Duration {
        let acks = locked(&self.acks);
        let times = acks.iter().map(|(at, _)| *at).filter(|at| *at > since);
        let times: Vec<Instant> = iter::once(since).chain(times).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

/// Ends the leaders of ours and of etcd in turn, in memory and on disk, killed and told to stop.
pub fn outage() {
    let mut lines = Vec::new();
    for peer in installed(|peer| peer.name.starts_with("etcd")) {
        let mut both = [ours(peer.kept), etcd(peer.kept)];
        for (how, signal) in [("killed", "KILL"), ("told to stop", "TERM")] {
            let name = format!("{how}, {:?}", peer.kept);
            let mut outages = [Vec::new(), Vec::new()];
            for round in 1..=rounds() {
                for turn in 0..2 {
                    let one = (round + turn + 1) % 2;
                    let outage = both[one].end_leader(signal).as_secs_f64() * 1e3;
                    println!("{name}, round {round}: {} {outage:.0} ms", ["ours", "etcd"][one]);
                    outages[one].push(outage);
                }
            }
            let columns = outages.map(|all| {
                let most = all.iter().copied().fold(0.0, f64::max);
                format!("{:.0}|{most:.0}", median(all))
            });
            lines.push(format!("{name}|{}", columns.join("|")));
        }
    }
    table("|ours, median ms|maximum|etcd, median ms|maximum", lines);
}

//! What attacks cost honest clients, and the nodes; with `BESIDE` in another build too, in turn.

use std::fs;
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{env, io, iter};

use crate::attackers::{Attack, all, honest};
use crate::nodes::{Node, Ours, fresh_directory, urls};
use crate::peers::wait_until;
use crate::post::whole;
use crate::report::{median, table};
use crate::rounds;

/// Honest clients, each of which sends its next request when the last one was answered.
const HONEST: usize = 8;

const WARM_UP: Duration = Duration::from_millis(500);
const ALONE: Duration = Duration::from_secs(2);
const ATTACKED: Duration = Duration::from_secs(3);

/// For so long at most the end of the attack is looked at.
const AFTERWARDS: Duration = Duration::from_secs(10);

/// The same, at least, where connections may be lost.
const UNTIL_LOST: Duration = Duration::from_secs(15);

/// The honest clients have recovered when they are so fast again, for half a second.
const RECOVERED: f64 = 0.9;

const TICK: Duration = Duration::from_millis(100);

/// An honest client sends a request again that was not answered for so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// The columns of the table. A figure is the worst of all rounds, but for the median in front.
const COLUMNS: [&str; 7] = [
    "beside / alone (least)",
    "longest wait s",
    "recovery s",
    "all nodes live",
    "memory MB",
    "CPU ms per answer",
    "lost",
];

/// What one round has shown, a figure for each column.
type Seen = [f64; COLUMNS.len()];

/// The table of attacks; `ATTACKS="silent slow"` for those with these words in their names.
pub fn attacks() {
    let words = env::var("ATTACKS").unwrap_or_default();
    let asked = |name: &str| words.is_empty() || words.split(' ').any(|word| name.contains(word));
    let builds: Vec<Ours> = Ours::beside().into_iter().chain(iter::once(Ours::new())).collect();
    let mut lines = Vec::new();
    for (number, attack) in all().iter().enumerate().filter(|(_, attack)| asked(attack.name)) {
        let mut seen: Vec<Vec<Seen>> = builds.iter().map(|_| Vec::new()).collect();
        for round in 1..=rounds() {
            for build in (0..builds.len()).map(|turn| (turn + round) % builds.len()) {
                println!("{}, {}, round {round}:", attack.name, builds[build].build.display());
                seen[build].push(run(&builds[build], number, attack));
            }
        }
        let cells = (0..COLUMNS.len()).map(|column| {
            let cells = seen.iter().map(|seen| cell(column, seen.iter().map(|seen| seen[column])));
            cells.collect::<Vec<_>>().join(" → ")
        });
        let cells = cells.collect::<Vec<_>>().join("|");
        lines.push(format!("{}|{}|{cells}", attack.name, attack.connections));
    }
    table(&format!("attack|connections|{}", COLUMNS.join("|")), lines);
    println!("{} rounds; with two figures: BESIDE → this build", rounds());
}

fn cell(column: usize, figures: impl Iterator<Item = f64> + Clone) -> String {
    let greatest = figures.clone().fold(0.0, f64::max);
    let least = figures.clone().fold(f64::INFINITY, f64::min);
    match COLUMNS[column] {
        "beside / alone (least)" => format!("{:.2} ({least:.2})", median(figures)),
        "all nodes live" if least.is_infinite() => "yes".into(),
        "all nodes live" => format!("ended after {least:.0} s"),
        _ if greatest.is_infinite() => "none".into(),
        "memory MB" | "lost" => format!("{greatest:.0}"),
        _ => format!("{greatest:.1}"),
    }
}

/// One round, with new nodes.
fn run(ours: &Ours, number: usize, attack: &Attack) -> Seen {
    let directory = fresh_directory("attacks");
    let nodes = start(ours, attack, &directory);
    let honest = Honest::start(nodes[0].address, &attack.honest);
    let mut field = Field { nodes, at: attack.at, memory: 0.0, honest };
    field.rate(WARM_UP);
    let alone = field.rate(ALONE);
    field.honest.forget_waits();
    let begun = Instant::now();
    let mut attacker = Attacker::start(number, field.attacked().address);
    let cpu = field.attacked().cpu();
    let beside = field.rate(ATTACKED);
    let cpu = (field.attacked().cpu() - cpu).as_secs_f64() * 1000.0;
    let told = attacker.end(field.attacked());
    println!("  {alone:.0}/s alone, {beside:.0}/s beside {told}");
    let (over, mut recovered, mut ended) = (Instant::now(), f64::INFINITY, f64::INFINITY);
    let least = if attack.loses { UNTIL_LOST } else { Duration::ZERO };
    while ended.is_infinite()
        && (over.elapsed() < least || recovered.is_infinite() && over.elapsed() < AFTERWARDS)
    {
        let since = over.elapsed().as_secs_f64();
        if field.rate(WARM_UP) >= alone * RECOVERED {
            recovered = recovered.min(since);
        }
        if !field.nodes.iter_mut().all(Node::lives) {
            ended = begun.elapsed().as_secs_f64();
        }
    }
    let Field { honest, nodes, memory, .. } = field;
    let wait = honest.longest_wait().as_secs_f64();
    drop((honest, nodes));
    let log = fs::read_to_string(directory.join(attack.at.to_string())).unwrap_or_default();
    let lost =
        log.rsplit_once("stuck=").and_then(|(_, rest)| rest.lines().next()?.trim().parse().ok());
    let _ = fs::remove_dir_all(directory);
    let cpu = cpu / (beside * ATTACKED.as_secs_f64()).max(1.0);
    let seen = [beside / alone, wait, recovered, ended, memory, cpu, lost.unwrap_or(0.0)];
    let told = COLUMNS
        .iter()
        .enumerate()
        .map(|(at, name)| format!("{name}: {}", cell(at, iter::once(seen[at]))));
    println!("  {}", told.collect::<Vec<_>>().join(", "));
    seen
}

/// A master and two secondaries, each of which writes its log lines to a file of its number.
fn start(ours: &Ours, attack: &Attack, directory: &Path) -> Vec<Node> {
    let command = |number: usize, program: &str| {
        let limit = if number == attack.at { attack.limit } else { ":" };
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{limit}; exec \"$0\" > \"$1\" 2> /dev/null")]);
        command.arg(ours.build.join(program)).arg(directory.join(number.to_string()));
        if attack.guarded {
            command.env("API_TOKEN", "honest");
        }
        if attack.loses {
            command.env("READ_TIMEOUT_MS", "2000");
        }
        command
    };
    let mut nodes: Vec<_> =
        [1, 2].map(|number| Node::start(&mut command(number, "secondary"))).into();
    let mut master = command(0, "master");
    nodes.insert(0, Node::start(master.env("SECONDARIES", urls(&nodes))));
    let address = nodes[0].address;
    let append = |length: usize| {
        let body = format!("{{\"msg\":\"{}\"}}", "x".repeat(length));
        let request =
            honest("POST /messages", &format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        wait_until("for an append", || ask(&mut None, address, &request, &|| false).is_ok());
    };
    append(1);
    (0..attack.filled).for_each(|_| append(100 << 10));
    if attack.stopped {
        let sent = Command::new("kill").args(["-s", "STOP", &nodes[2].id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "the secondary could not be stopped");
    }
    nodes
}

/// The nodes and the honest clients of a round.
struct Field {
    nodes: Vec<Node>,
    at: usize,
    memory: f64,
    honest: Honest,
}

impl Field {
    fn attacked(&self) -> &Node {
        &self.nodes[self.at]
    }

    /// Good answers per second during this time.
    fn rate(&mut self, time: Duration) -> f64 {
        let (start, before) = (Instant::now(), self.honest.0.good.load(SeqCst));
        while let left @ 1.. = time.saturating_sub(start.elapsed()).as_millis() {
            thread::sleep(TICK.min(Duration::from_millis(left as u64)));
            let memory = self.attacked().peak_memory();
            self.memory = memory.map_or(self.memory, |memory| memory as f64 / 1e6);
        }
        (self.honest.0.good.load(SeqCst) - before) as f64 / start.elapsed().as_secs_f64()
    }
}

/// The process that attacks.
struct Attacker(Child, Box<dyn Iterator<Item = io::Result<String>>>);

impl Attacker {
    /// Returns when it has gathered.
    fn start(number: usize, address: SocketAddr) -> Attacker {
        let this = env::current_exe().expect("a running program has a path");
        let of = format!("{number} {address} {}", ATTACKED.as_millis());
        let mut command = Command::new(this);
        command.env("BENCH_ROLE", "attacker").env("BENCH_OF", of).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a program that runs can be started");
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let mut lines = BufReader::new(stdout).lines();
        let _ = lines.next();
        Attacker(child, Box::new(lines))
    }

    /// Waits until it has ended, and returns what it tells.
    fn end(&mut self, attacked: &Node) -> String {
        let held = fs::read_dir(format!("/proc/{}/fd", attacked.id())).map_or(0, Iterator::count);
        let told = self.1.next().and_then(Result::ok).unwrap_or_default();
        let _ = self.0.wait();
        format!("{told}, {held} descriptors in the node")
    }
}

/// The honest clients, each a thread; they end with this.
struct Honest(Arc<Shared>, Vec<JoinHandle<()>>);

struct Shared {
    address: SocketAddr,
    request: String,
    good: AtomicU64,
    ended: AtomicBool,
    /// When each client began the request that it is at, and its longest wait.
    waits: [Mutex<(Instant, Duration)>; HONEST],
}

impl Honest {
    fn start(address: SocketAddr, request: &str) -> Honest {
        let shared = Arc::new(Shared {
            address,
            request: request.to_string(),
            good: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            waits: [(); HONEST].map(|()| Mutex::new((Instant::now(), Duration::ZERO))),
        });
        let client = |number: usize| {
            let shared = shared.clone();
            thread::spawn(move || shared.drive(number))
        };
        let threads = (0..HONEST).map(client).collect();
        Honest(shared, threads)
    }

    fn forget_waits(&self) {
        (0..HONEST).for_each(|number| self.0.wait(number).1 = Duration::ZERO);
    }

    fn longest_wait(&self) -> Duration {
        let wait = |number| {
            let (since, longest) = *self.0.wait(number);
            longest.max(since.elapsed())
        };
        (0..HONEST).map(wait).max().unwrap_or_default()
    }
}

impl Drop for Honest {
    fn drop(&mut self) {
        self.0.ended.store(true, SeqCst);
        self.1.drain(..).for_each(|thread| thread.join().expect("it does not panic"));
    }
}

impl Shared {
    fn wait(&self, number: usize) -> MutexGuard<'_, (Instant, Duration)> {
        self.waits[number].lock().expect("nobody panics")
    }

    fn drive(&self, number: usize) {
        let mut stream = None;
        let ended = || self.ended.load(SeqCst);
        while !ended() {
            if ask(&mut stream, self.address, &self.request, &ended).is_ok() {
                self.good.fetch_add(1, SeqCst);
                let mut wait = self.wait(number);
                *wait = (Instant::now(), wait.1.max(wait.0.elapsed()));
            } else {
                stream = None;
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Sends this over the kept connection, or a new one. Anything but a good answer is an error.
fn ask(
    kept: &mut Option<TcpStream>,
    address: SocketAddr,
    request: &str,
    ended: &dyn Fn() -> bool,
) -> io::Result<()> {
    if kept.is_none() {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TICK))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        *kept = Some(stream);
    }
    let Some(stream) = kept else { return Ok(()) };
    let (begun, mut read, mut piece) = (Instant::now(), Vec::new(), [0; 8192]);
    stream.write_all(request.as_bytes())?;
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => read.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            Err(error) if ended() || begun.elapsed() > PATIENCE => return Err(error),
            Err(_) => {}
        }
        if let Some((head, length)) = whole(&read)
            && read.len() >= length
        {
            let good = head.starts_with("HTTP/1.1 2");
            return if good { Ok(()) } else { Err(Error::other(head.to_string())) };
        }
    }
}

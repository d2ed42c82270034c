//! What must not cost much: a long log, a large answer, a secondary that was away, idle
//! connections, clients that wait, and open pages.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::load::Protocol;
use crate::nodes::{Cluster, Node, Ours, ours, program, secondaries, urls, with_master};
use crate::pairs::{clients, pairs, pairs_table};
use crate::post::{Post, short, whole};
use crate::report::median;
use crate::rounds;
use crate::writes::{assert_equal_logs, fill, measure};

/// Appends to a log of a million entries, beside appends to an empty one.
pub fn growth() {
    const ENTRIES: usize = 1_000_000;
    let long = ours(short());
    let empty_memory = long.nodes[0].memory();
    fill(&long, ENTRIES, 100);
    let per_entry = (long.nodes[0].memory() - empty_memory) / ENTRIES as u64;
    let lines = clients(&[1, 64]).into_iter().map(|clients| {
        let name = format!("a log of {ENTRIES} beside an empty one, {clients} clients");
        let empty = || measure(&ours(short()), clients);
        pairs(&name, rounds(), &|| measure(&long, clients), &empty)
    });
    pairs_table(lines);
    println!("memory of the master per 100-byte entry: {per_entry} bytes");
}

/// A `GET /messages` of 100 MB, beside a loop that writes as many bytes to a socket.
pub fn stream() {
    const BYTES: usize = 100 << 20;
    const MESSAGE: usize = 10 << 10;
    let cluster = ours(short());
    fill(&cluster, BYTES / MESSAGE, MESSAGE);
    let node = &cluster.nodes[0];
    let (mut ratios, mut grown) = (Vec::new(), Vec::new());
    for round in 1..=rounds() {
        let (loop_rate, _) = read_all(plain_loop(BYTES), b"go", &mut || {});
        let before = node.memory();
        let mut most = before;
        let mut watch = || most = most.max(node.memory());
        let get = b"GET /messages HTTP/1.1\r\nHost: bench\r\n\r\n";
        let (rate, bytes) = read_all(node.address, get, &mut watch);
        assert!(bytes > BYTES, "{bytes} bytes came");
        println!("round {round}: {:.0} MB/s, a plain loop {:.0} MB/s", rate / 1e6, loop_rate / 1e6);
        ratios.push(rate / loop_rate);
        grown.push((most - before) as f64 / 1e6);
    }
    println!("beside the loop x {:.2}; memory grew by {:.1} MB", median(ratios), median(grown));
}

/// Writes so many bytes, 64 KiB at a time, to the first who asks.
fn plain_loop(bytes: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody connects");
        stream.read_exact(&mut [0; 2]).expect("somebody asks");
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("somebody reads");
        let piece = vec![b'x'; 64 << 10];
        for _ in 0..bytes / piece.len() {
            stream.write_all(&piece).expect("somebody reads");
        }
    });
    address
}

/// Bytes per second and bytes; `watch` is called every few megabytes.
fn read_all(address: SocketAddr, request: &[u8], watch: &mut dyn FnMut()) -> (f64, usize) {
    let mut stream = TcpStream::connect(address).expect("the node listens");
    let mut piece = vec![0; 64 << 10];
    let start = Instant::now();
    stream.write_all(request).expect("the node reads");
    let mut read = stream.read(&mut piece).expect("the node answers");
    let (_, length) = whole(&piece[..read]).expect("the head comes first");
    let mut watched = 0;
    while read < length {
        let count = stream.read(&mut piece).expect("the node answers");
        assert!(count > 0, "the answer was cut off");
        read += count;
        if read - watched > 8 << 20 {
            watched = read;
            watch();
        }
    }
    (read as f64 / start.elapsed().as_secs_f64(), read)
}

/// How fast a secondary that starts empty gets everything.
pub fn catchup() {
    const ENTRIES: usize = 500_000;
    let mut cluster = ours(short());
    fill(&cluster, ENTRIES, 100);
    let address = cluster.nodes[2].address;
    let mut rates = Vec::new();
    for round in 1..=rounds() {
        cluster.nodes[2].kill();
        let start = Instant::now();
        cluster.nodes[2] = Node::start_on(&mut program("secondary"), address);
        let count = || cluster.nodes[2].get("/health")["count"].as_u64().unwrap_or_default();
        let held = |least: u64| {
            while count() < least {
                thread::sleep(Duration::from_millis(1));
            }
            Instant::now()
        };
        let begun = held(1);
        let ended = held(ENTRIES as u64);
        let rate = ENTRIES as f64 / (ended - begun).as_secs_f64();
        println!(
            "round {round}: {rate:.0} entries/s, {:.0} ms after the start of the process it began",
            (begun - start).as_secs_f64() * 1000.0
        );
        rates.push(rate);
    }
    assert_equal_logs(&cluster);
    println!("median {:.0} entries/s", median(rates));
}

/// A thousand connections that say nothing; with `BESIDE` at a master of that build too.
pub fn idle() {
    const IDLE: usize = 1000;
    let mut lines = Vec::new();
    for (build, ours) in [("this build", Some(Ours::new())), ("the other", Ours::beside())] {
        let Some(ours) = ours else { continue };
        let cluster = ours.start(short());
        let node = &cluster.nodes[0];
        let crowd = || (0..IDLE).map(|_| silent_connection(node.address)).collect::<Vec<_>>();
        let quiet = || measure(&cluster, 64);
        quiet();
        let before = node.memory();
        let connections = crowd();
        let grown = (node.memory() - before) as f64 / 1e6;
        println!("{build}, {IDLE} idle connections: {grown:.1} MB, {}", cost_of_idling(node));
        drop(connections);
        let crowded = || {
            let _connections = crowd();
            quiet()
        };
        let name = format!("{build}, {IDLE} idle connections beside none");
        lines.push(pairs(&name, rounds(), &crowded, &quiet));
    }
    pairs_table(lines);
}

/// A connection that has been used once.
fn silent_connection(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the node listens");
    let get = b"GET /messages/1 HTTP/1.1\r\nHost: bench\r\n\r\n";
    stream.write_all(get).expect("the node reads");
    stream.read_exact(&mut [0; 12]).expect("the node answers");
    stream
}

/// What a node that is asked nothing does all the same.
fn cost_of_idling(node: &Node) -> String {
    let before = node.cpu();
    thread::sleep(Duration::from_secs(5));
    let busy = (node.cpu() - before).as_secs_f64() / 5.0;
    let id = node.id().to_string();
    let perf = ["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", &id, "sleep", "5"];
    let by_perf = calls_per_second(&perf, "sys_enter");
    let strace = ["timeout", "-s", "INT", "5", "strace", "-f", "-c", "-U", "calls,name", "-p", &id];
    let by_strace = calls_per_second(&strace, "total");
    format!(
        "idle {:.1} % of a core, system calls per second: {by_perf} as perf counts them, \
         {by_strace} as strace does, which slows the node down",
        busy * 100.0
    )
}

/// The number that begins the line with this mark: what such a program counts in five seconds.
fn calls_per_second(command: &[&str], mark: &str) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output();
    let text = output.map(|output| output.stderr).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| line.contains(mark)).unwrap_or_default().trim();
    let number: Option<u32> = line.split([',', ' ']).next().and_then(|word| word.parse().ok());
    number.map_or("unknown".into(), |number| (number / 5).to_string())
}

/// A client that needs nobody, beside a hundred others that wait for a secondary which is away.
pub fn blocked() {
    const WAITING: usize = 100;
    let (quiet, crowded) = (one_away(), one_away());
    let master = &crowded.nodes[0];
    let _waiting: Vec<TcpStream> = (0..WAITING).map(|_| post_for_all(master.address)).collect();
    while master.get("/health")["count"] != WAITING {
        thread::sleep(Duration::from_millis(5));
    }
    let name = format!("a w=1 client beside {WAITING} that wait");
    let alone = || measure(&quiet, 1);
    pairs_table([pairs(&name, rounds(), &|| measure(&crowded, 1), &alone)]);
    println!("{} threads in the master", thread_count(master));
}

/// Appends while five pages are open that show them.
pub fn watched() {
    const PAGES: usize = 5;
    let cluster = ours(short());
    let address = cluster.nodes[0].address;
    let alone = || measure(&cluster, 64);
    let beside = || {
        let pages: Vec<_> = (0..PAGES).map(|_| open_page(address)).collect();
        let measured = alone();
        let told: usize = pages.into_iter().map(close_page).sum();
        println!("{PAGES} pages were told {told} times");
        measured
    };
    // The difference is small and the machine is not quiet.
    pairs_table([pairs(&format!("{PAGES} pages beside none"), 3 * rounds(), &beside, &alone)]);
}

/// A page, whose thread counts what it is told.
fn open_page(address: SocketAddr) -> (TcpStream, thread::JoinHandle<usize>) {
    let mut stream = TcpStream::connect(address).expect("the node listens");
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: bench\r\n\r\n").expect("the node reads");
    let reading = stream.try_clone().expect("a socket can be shared");
    let events = BufReader::new(reading).lines().map_while(Result::ok);
    let page = thread::spawn(move || events.filter(|line| line.starts_with("data: ")).count());
    (stream, page)
}

fn close_page((stream, page): (TcpStream, thread::JoinHandle<usize>)) -> usize {
    stream.shutdown(Shutdown::Both).expect("it is open");
    page.join().expect("it does not panic")
}

/// A cluster one of whose secondaries is away.
fn one_away() -> Cluster {
    let mut secondaries = secondaries(2);
    let addresses = urls(&secondaries);
    secondaries.truncate(1);
    let mut master = program("master");
    master.env("SECONDARIES", addresses).env("RECOVERY_TIMEOUT_MS", "300");
    with_master(Node::start(&mut master), secondaries, Post::new(100, Some("1"), false))
}

fn post_for_all(address: SocketAddr) -> TcpStream {
    let mut request = Vec::new();
    Post::new(100, Some("3,\"wtimeout\":0"), false).request(0, &mut request);
    let mut stream = TcpStream::connect(address).expect("the node listens");
    stream.write_all(&request).expect("the node reads");
    stream
}

fn thread_count(node: &Node) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", node.id())).map_or(0, Iterator::count)
}

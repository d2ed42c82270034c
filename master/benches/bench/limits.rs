//! What must not cost much: a long log, a large answer, a secondary that was away, idle
//! connections, clients that wait, and open pages.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::load::{Until, drive};
use crate::nodes::{Cluster, Node, binaries, ours, urls, with_master};
use crate::post::{Post, whole};
use crate::report::{median, table};
use crate::writes::{assert_equal_logs, measure, wait_until_level};
use crate::{MEASURED, rounds};

/// Fills the log of a cluster with this many messages.
fn fill(cluster: &mut Cluster, count: usize, message_bytes: usize) {
    let address = cluster.nodes[0].address;
    let post = Post::new(message_bytes, Some("1"), false);
    drive(address, 64, &post, Until::Count(count), &mut || {});
    wait_until_level(cluster);
}

fn short() -> Post {
    Post::new(100, None, false)
}

/// Appends to a log of a million entries, beside appends to an empty one.
pub fn growth() {
    const ENTRIES: usize = 1_000_000;
    let mut long = ours(short());
    let empty_memory = long.nodes[0].memory();
    fill(&mut long, ENTRIES, 100);
    let per_entry = (long.nodes[0].memory() - empty_memory) / ENTRIES as u64;
    let mut lines = Vec::new();
    for clients in [1, 64] {
        let mut p50 = [Vec::new(), Vec::new()];
        for round in 1..=rounds() {
            let empty = measure(&ours(short()), clients, Until::Time(MEASURED)).percentiles[0];
            let full = measure(&long, clients, Until::Time(MEASURED)).percentiles[0];
            println!(
                "round {round}, {clients} clients: p50 {empty:.2} ms empty, {full:.2} ms long"
            );
            p50[0].push(empty);
            p50[1].push(full);
        }
        let ratio = median(p50[0].iter().zip(&p50[1]).map(|(empty, full)| full / empty));
        let [empty, full] = p50.map(median);
        lines.push(vec![
            clients.to_string(),
            format!("{empty:.2}"),
            format!("{full:.2}"),
            format!("{ratio:.2}"),
        ]);
    }
    table(&["clients", "p50 ms empty", "p50 ms 1 000 000 entries", "ratio"], lines);
    println!("memory of the master per 100-byte entry: {per_entry} bytes");
}

/// A `GET /messages` of 100 MB, beside a loop that writes as many bytes to a socket.
pub fn stream() {
    const BYTES: usize = 100 << 20;
    const MESSAGE: usize = 10 << 10;
    let mut cluster = ours(short());
    fill(&mut cluster, BYTES / MESSAGE, MESSAGE);
    let node = &cluster.nodes[0];
    let mut lines = Vec::new();
    let (mut ratios, mut grown) = (Vec::new(), Vec::new());
    for round in 1..=rounds() {
        let loop_rate = read_all(plain_loop(BYTES), b"go").0;
        let before = node.memory();
        let get = b"GET /messages HTTP/1.1\r\nHost: bench\r\n\r\n";
        let mut most = before;
        let mut watch = || most = most.max(node.memory());
        let (rate, bytes) = read_all_watched(node.address, get, &mut watch);
        assert!(bytes > BYTES, "{bytes} bytes came");
        ratios.push(rate / loop_rate);
        grown.push((most - before) as f64 / 1e6);
        lines.push(vec![
            round.to_string(),
            format!("{:.0}", loop_rate / 1e6),
            format!("{:.0}", rate / 1e6),
            format!("{:.2}", rate / loop_rate),
            format!("{:.1}", (most - before) as f64 / 1e6),
        ]);
    }
    table(&["round", "loop MB/s", "GET MB/s", "ratio", "memory grown by MB"], lines);
    println!("median ratio {:.2}, grown by {:.1} MB", median(ratios), median(grown));
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

fn read_all(address: SocketAddr, request: &[u8]) -> (f64, usize) {
    read_all_watched(address, request, &mut || {})
}

/// Bytes per second and bytes; `watch` is called every few megabytes.
fn read_all_watched(address: SocketAddr, request: &[u8], watch: &mut dyn FnMut()) -> (f64, usize) {
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
    let (master, secondary) = binaries();
    let other = Node::start(&mut Command::new(&secondary));
    let away = Node::start(&mut Command::new(&secondary));
    let addresses = [&other, &away].map(|node| node.url()).join(",");
    let address = away.address;
    let master = Node::start(Command::new(master).env("SECONDARIES", addresses));
    let mut cluster = with_master(master, vec![other, away], short());
    fill(&mut cluster, ENTRIES, 100);
    let mut rates = Vec::new();
    for round in 1..=rounds() {
        cluster.nodes[2].kill();
        let start = Instant::now();
        cluster.nodes[2] = Node::start_on(&mut Command::new(&secondary), address);
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

/// A thousand connections that say nothing.
pub fn idle() {
    const IDLE: usize = 1000;
    let (mut ratios, mut grown) = (Vec::new(), Vec::new());
    for round in 1..=rounds() {
        let cluster = ours(short());
        let node = &cluster.nodes[0];
        let quiet = measure(&cluster, 64, Until::Time(MEASURED));
        let before = node.memory();
        let connect = |_| {
            let mut stream = TcpStream::connect(node.address).expect("the node listens");
            let get = b"GET /messages/1 HTTP/1.1\r\nHost: bench\r\n\r\n";
            stream.write_all(get).expect("the node reads");
            stream.read_exact(&mut [0; 12]).expect("the node answers");
            stream
        };
        let connections: Vec<TcpStream> = (0..IDLE).map(connect).collect();
        let cost = (node.memory() - before) as f64 / 1e6;
        let crowded = measure(&cluster, 64, Until::Time(MEASURED));
        drop(connections);
        println!(
            "round {round}: {cost:.1} MB; {:.0} POST/s without, {:.0} with them",
            quiet.rate, crowded.rate
        );
        ratios.push(crowded.rate / quiet.rate);
        grown.push(cost);
    }
    println!("{IDLE} idle connections: {:.1} MB, rate x {:.2}", median(grown), median(ratios));
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
    let mut ratios = Vec::new();
    for round in 1..=rounds() {
        let [alone, beside] =
            [&quiet, &crowded].map(|of| measure(of, 1, Until::Time(MEASURED)).percentiles[0]);
        println!(
            "round {round}: p50 {alone:.3} ms alone, {beside:.3} ms beside {WAITING} that wait"
        );
        ratios.push(beside / alone);
    }
    println!(
        "p50 of a w=1 client beside {WAITING} blocked ones: x {:.2}; {} threads in the master",
        median(ratios),
        thread_count(master)
    );
}

/// Appends while five pages are open that show them.
pub fn watched() {
    const PAGES: usize = 5;
    let cluster = ours(short());
    let address = cluster.nodes[0].address;
    let mut ratios = Vec::new();
    // The difference is small and the machine is not quiet.
    for round in 1..=3 * rounds() {
        let rate = || measure(&cluster, 64, Until::Time(MEASURED)).rate;
        let before = rate();
        let pages: Vec<_> = (0..PAGES).map(|_| open_page(address)).collect();
        let beside = rate();
        let told: usize = pages.into_iter().map(close_page).sum();
        let ratio = beside / f64::midpoint(before, rate());
        println!("round {round}: x {ratio:.3} beside {PAGES} pages, which were told {told} times");
        ratios.push(ratio);
    }
    println!("{PAGES} pages: rate x {:.3}", median(ratios));
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
    let (master, secondary) = binaries();
    let mut secondaries: Vec<Node> =
        (0..2).map(|_| Node::start(&mut Command::new(&secondary))).collect();
    let addresses = urls(&secondaries);
    secondaries.truncate(1);
    let mut command = Command::new(master);
    command.env("SECONDARIES", addresses).env("RECOVERY_TIMEOUT_MS", "300");
    with_master(Node::start(&mut command), secondaries, Post::new(100, Some("1"), false))
}

fn post_for_all(address: SocketAddr) -> TcpStream {
    let body = r#"{"msg":"waits","w":3,"wtimeout":0}"#;
    let length = body.len();
    let head =
        format!("POST /messages HTTP/1.1\r\nHost: bench\r\nContent-Length: {length}\r\n\r\n");
    let mut stream = TcpStream::connect(address).expect("the node listens");
    stream.write_all((head + body).as_bytes()).expect("the node reads");
    stream
}

fn thread_count(node: &Node) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", node.id())).map_or(0, Iterator::count)
}

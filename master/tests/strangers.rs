//! What strangers may do: web pages, callers without a token, and epochs that no clock has reached.

mod support;

use std::fs;
use std::process::Output;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use common::entries::Epoch;
use common::epochs;
use common::reign::{Facts, MasterId, Reign};
use common::store::{self, Store};
use serde_json::{Value, json};
use support::cluster::Cluster;
use support::directory::Directory;
use support::fake::{Fake, ack, respond};
use support::http::Answer;
use support::masters::Masters;
use support::node::{Node, Role, Settings};
use support::{SOON, wait_until};

const TOKEN: &str = "Authorization: Bearer of-nodes";

/// Everything that only a node may ask a secondary for.
const OF_NODES: [(&str, &str, &str); 6] = [
    ("POST", "/replicate", r#"{"msg":"stray"}"#),
    ("POST", "/heartbeat", r#"{"epoch":0,"last_seq":0,"committed_seq":0}"#),
    ("POST", "/promise", r#"{"epoch":7,"takeover":true}"#),
    ("GET", "/entries?from=1", ""),
    ("GET", "/chaos", ""),
    ("PUT", "/chaos", r#"{"delay_ms":9}"#),
];

/// Sends a request with these fields in its head and no others, but for the length of its body.
fn ask(node: &Node, method: &str, path: &str, fields: &[&str], body: &str) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
    if !fields.iter().any(|field| field.starts_with("Host:")) {
        head += "Host: node\r\n";
    }
    fields.iter().for_each(|field| head.extend([field, "\r\n"]));
    let mut connection = node.connect();
    let written = connection.write((head + "\r\n" + body).as_bytes());
    let answer = written.and_then(|()| connection.read(method == "HEAD"));
    answer.unwrap_or_else(|error| panic!("no answer to {method} {path}: {error}"))
}

/// Sends a request with this token.
fn ask_with(node: &Node, token: &str, (method, path, body): (&str, &str, &str)) -> Answer {
    ask(node, method, path, &["Host: node", token], body)
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("a node prints UTF-8")
}

// Web pages

#[test]
fn pages_of_other_origins_change_nothing() {
    // Goal: a text/plain form or a fetch of no-cors, of a public page or one of another port of
    // this machine, in browsers that say their site and in those that say their origin only.
    let cluster = Cluster::start(&[&[("CHAOS", "1")], &[]], &[]);
    cluster.post("m1");
    let epoch = epochs::draw(Epoch(0)).0;
    let heartbeat = json!({ "epoch": epoch, "last_seq": 0, "committed_seq": 0 }).to_string();
    let message = r#"{"msg":"stray"}"#;
    let (master, secondary) = (&cluster.master, &cluster.secondaries[0]);
    let changes = [
        (master, "POST", "/messages", message),
        (master, "PUT", "/secondaries/0/chaos", r#"{"delay_ms":9}"#),
        (secondary, "POST", "/replicate", message),
        (secondary, "POST", "/heartbeat", &heartbeat),
        (secondary, "POST", "/promise", &heartbeat),
        (secondary, "PUT", "/chaos", r#"{"delay_ms":9}"#),
    ];
    let pages: [&[&str]; 4] = [
        &["Origin: https://evil.example", "Sec-Fetch-Site: cross-site"],
        &["Origin: http://127.0.0.1:9", "Sec-Fetch-Site: same-site"],
        &["Origin: http://evil.example"],
        &["Origin: null"],
    ];
    for (node, method, path, body) in changes {
        for page in pages {
            let own = format!("Host: {}", node.addr());
            let fields = [&[&*own, "Content-Type: text/plain"], page].concat();
            let answer = ask(node, method, path, &fields, body);
            assert_eq!(answer.status, 403, "{method} {path} {page:?}: {}", answer.text());
            assert_eq!(answer.json()["stored"], false);
        }
    }
    cluster.post("m2");
    assert_eq!(cluster.wait_until_equal(SOON).0, ["m1", "m2"]);
    assert_eq!(secondary.get("/chaos").json()["delay_ms"], 0);
    let metrics = secondary.get("/metrics");
    let counted = "replog_refused_total{reason=\"cross_origin\"} 16\n";
    assert!(metrics.text().contains(counted), "{}", metrics.text());
}

#[test]
fn the_own_page_and_programs_may_write() {
    // Goal: the live page names its own origin, and a program none.
    let master = Node::master(&[], &[]);
    let own = format!("Host: {}", master.addr());
    let origin = format!("Origin: http://{}", master.addr());
    let callers: [&[&str]; 4] =
        [&[&own], &[&own, &origin], &[&own, &origin, "Sec-Fetch-Site: same-origin"], &[]];
    for fields in callers {
        let answer = ask(&master, "POST", "/messages", fields, r#"{"msg":"m"}"#);
        assert_eq!(answer.status, 201, "{fields:?}: {}", answer.text());
    }
}

#[test]
fn a_foreign_name_is_not_answered() {
    // Goal: a page whose own name resolves to the node reads nothing, on no path. The names of the
    // node are answered, also those that only its settings know.
    let known = [("ADVERTISE_URL", "http://log.example.com:80"), ("ALLOWED_HOSTS", "a.b, c.d")];
    let nodes = [Node::master(&[], &known), Node::secondary(&known[1..])];
    for node in &nodes {
        for path in ["/messages", "/messages/1", "/health", "/metrics", "/", "/events", "/x"] {
            for host in ["evil.example:8000", "127.0.0.1.evil.example", "a.b.c"] {
                let answer = ask(node, "GET", path, &[&format!("Host: {host}")], "");
                assert_eq!(answer.status, 421, "{path} {host}: {}", answer.text());
                assert!(answer.text().contains("ALLOWED_HOSTS"), "{}", answer.text());
            }
        }
        for host in ["127.0.0.1:1", "[::1]", "localhost:8000", "master", "x.y.svc", "a.b", "C.D:1"]
        {
            let answer = ask(node, "GET", "/health", &[&format!("Host: {host}")], "");
            assert_eq!(answer.status, 200, "{host}: {}", answer.text());
        }
    }
    let advertised = |node| ask(node, "GET", "/ready", &["Host: log.example.com"], "").status;
    assert_eq!(nodes.each_ref().map(advertised), [200, 421]);
    let post = ask(&nodes[0], "POST", "/messages", &["Host: evil.example"], r#"{"msg":"m"}"#);
    assert_eq!((post.status, nodes[0].log().len()), (421, 0));
}

#[test]
fn answers_are_kept_from_other_pages() {
    // Goal: whatever the status, no answer can be embedded, guessed at or read by another origin,
    // and nobody frames the live page or adds a script to it.
    let cluster = Cluster::start(&[&[]], &[]);
    for node in cluster.nodes() {
        for path in ["/messages", "/health", "/metrics", "/nowhere", "/messages?from=x"] {
            for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
                let answer =
                    ask(node, method, path, &["Host: node", "Origin: http://evil.example"], "");
                let header = |name| answer.header(name);
                assert_eq!(header("X-Content-Type-Options"), Some("nosniff"), "{method} {path}");
                assert_eq!(header("Cross-Origin-Resource-Policy"), Some("same-origin"), "{path}");
                assert_eq!(header("Access-Control-Allow-Origin"), None, "{path}");
            }
        }
    }
    let page = cluster.master.get("/");
    let policy = page.header("Content-Security-Policy").unwrap();
    let parts: Vec<&str> = policy.split("; ").collect();
    for part in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"] {
        assert!(parts.contains(&part), "{part} is not in {policy}");
    }
    let scripts = parts.iter().find(|part| part.starts_with("script-src")).unwrap();
    let nonce = scripts.strip_prefix("script-src 'nonce-").and_then(|rest| rest.strip_suffix("'"));
    let nonce = nonce.unwrap_or_else(|| panic!("{scripts}"));
    assert!(page.text().contains(&format!("<script nonce=\"{nonce}\">")), "{scripts}");
    assert!(nonce.len() == 32 && !cluster.master.get("/").text().contains(nonce), "used again");
    // The page of another master only learns that there is an answer.
    let ready = cluster.master.get("/ready");
    assert_eq!(ready.header("Cross-Origin-Resource-Policy"), Some("cross-origin"));
}

#[test]
fn no_input_becomes_a_header() {
    // Goal: whatever a request says, an answer that repeats some of it in a header has no line more
    // for it. CVE-2026-66753: tiny_http writes CR and LF in a header's value as they are.
    let cluster = Masters::start(2, &[]);
    let standby = &cluster.masters[1];
    for line in ["\n", "\r", "\n\n"] {
        for target in ["/messages?from=1", "/messages/1"] {
            let mut connection = standby.connect();
            let request =
                format!("GET {target}{line}Set-Cookie:a=b HTTP/1.1\r\nHost: node\r\n\r\n");
            connection.write(request.as_bytes()).unwrap();
            let answer = connection.read(false).unwrap();
            assert_eq!((answer.status, answer.header("Location")), (400, None), "{request:?}");
        }
    }
    let target = "/messages?from=1&x=%0d%0aSet-Cookie:a=b";
    let answer = standby.get(target);
    let location = format!("{}{target}", cluster.masters[0].url());
    assert_eq!((answer.status, answer.header("Location")), (307, Some(location.as_str())));
    assert_eq!(answer.header("Set-Cookie"), None);
}

// Tokens

#[test]
fn without_a_token_nobody_is_a_node() {
    // Goal: neither without a token nor with another one; a stranger who opens a connection first
    // changes nothing, and the nodes find each other.
    let own = [("CLUSTER_TOKEN", "of-nodes"), ("CHAOS", "1")];
    let cluster = Cluster::start(&[&own, &own], &own[..1]);
    cluster.post("m1");
    let secondary = &cluster.secondaries[1];
    for call in OF_NODES {
        let answer = ask(secondary, call.0, call.1, &["Host: node"], call.2);
        assert_eq!(answer.status, 401, "{call:?}: {}", answer.text());
        assert_eq!(answer.header("WWW-Authenticate"), Some("Bearer"), "{call:?}");
        for wrong in
            ["Bearer x", "Bearer of-node", "Bearer of-nodes1", "Basic of-nodes", "of-nodes"]
        {
            let answer = ask_with(secondary, &format!("Authorization: {wrong}"), call);
            let challenge = answer.header("WWW-Authenticate");
            assert_eq!((answer.status, challenge), (401, Some("Bearer error=\"invalid_token\"")));
            assert!(answer.json()["error"].is_string());
        }
    }
    cluster.post("m2");
    assert_eq!(cluster.wait_until_equal(SOON).0, ["m1", "m2"]);
    for call in [OF_NODES[1], OF_NODES[3], OF_NODES[4]] {
        assert_eq!(ask_with(secondary, TOKEN, call).status, 200, "{call:?}");
    }
    // The master passes faults on with its own token, so it asks for one too.
    let faults = ("PUT", "/secondaries/1/chaos", r#"{"delay_ms":1}"#);
    assert_eq!(ask_with(&cluster.master, "X: y", faults).status, 401);
    assert_eq!(ask_with(&cluster.master, TOKEN, faults).status, 200);
    let metrics = secondary.get("/metrics");
    for counted in ["{reason=\"no_token\"} 6\n", "{reason=\"wrong_token\"} 30\n"] {
        assert!(metrics.text().contains(counted), "{counted} is not in {}", metrics.text());
    }
    let lines = secondary.printed();
    let told: Vec<_> = lines.iter().filter(|line| line.contains("refused strangers")).collect();
    assert!(told.len() == 1 && told[0].contains("reason=no_token"), "{told:?}");
}

#[test]
fn clients_need_their_own_token() {
    // Goal: the token of a client opens reads and writes, and nothing of the nodes; that of the
    // nodes opens no client's. READ_OPEN lets everybody read.
    let (client, other) = ("Authorization: Bearer of-clients", TOKEN);
    let both = [("CLUSTER_TOKEN", "of-nodes"), ("API_TOKEN", "of-clients")];
    let cluster = Cluster::start(&[&both], &[&both[..], &[("READ_OPEN", "1")]].concat());
    let (master, secondary) = (&cluster.master, &cluster.secondaries[0]);
    let post = ("POST", "/messages", r#"{"msg":"m"}"#);
    assert_eq!(ask_with(master, "X: y", post).status, 401);
    assert_eq!(ask_with(master, other, post).status, 401);
    assert_eq!(ask_with(master, client, post).status, 201);
    assert_eq!(ask_with(secondary, client, post).status, 307);
    for path in ["/messages", "/messages/1", "/messages?from=1&wait=9"] {
        let read = ("GET", path, "");
        assert_eq!(ask_with(master, "X: y", read).status, 200, "{path}");
        assert_eq!(ask_with(secondary, "X: y", read).status, 401, "{path}");
        assert_eq!(ask_with(secondary, client, read).status, 200, "{path}");
    }
    for path in ["/messages/stream", "/events"] {
        assert!(master.connect().follow(path, &[]).is_ok(), "{path}");
    }
    assert_eq!(ask_with(secondary, "X: y", ("GET", "/messages/stream", "")).status, 401);
    assert_eq!(ask_with(secondary, client, OF_NODES[0]).status, 401);
}

#[test]
fn open_paths_tell_no_secret() {
    // Goal: health checks and monitoring need no token, and nothing in their answers helps to speak
    // as a node. Who shows the token is told everything.
    let own = [("CLUSTER_TOKEN", "of-nodes"), ("API_TOKEN", "of-clients")];
    let cluster = Cluster::start(&[&own], &own);
    cluster.wait_until_ready();
    cluster.wait_until_level();
    let secrets =
        ["of-nodes", "of-clients", "\"epoch\"", "instance", "replog_epoch", "\"follows\":\""];
    for node in cluster.nodes() {
        for path in ["/health", "/ready", "/metrics", "/openapi.json"] {
            let answer = node.get(path);
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            if path != "/openapi.json" {
                let text = answer.text();
                assert!(!secrets.iter().any(|secret| text.contains(secret)), "{path}: {text}");
            }
        }
    }
    let told = |node, path| ask_with(node, TOKEN, ("GET", path, "")).text().to_string();
    assert!(told(&cluster.master, "/health").contains("\"epoch\""));
    assert!(told(&cluster.master, "/metrics").contains("\nreplog_epoch "));
    assert!(told(&cluster.secondaries[0], "/health").contains("\"instance\""));
}

#[test]
fn two_tokens_let_nodes_change_theirs() {
    // Goal: a rotation without a pause: first every node accepts both, then each sends the new one.
    let secondary = Node::secondary(&[("CLUSTER_TOKEN", "new, old")]);
    for token in ["old", "old,new", "new,old", "new"] {
        let master = Node::usurper(&[&secondary.url()], &[("CLUSTER_TOKEN", token)]);
        master.wait_until_ready();
        assert_eq!(master.post_message("m").status, 201, "{token}");
    }
    let stranger = Node::master(&[&secondary.url()], &[("CLUSTER_TOKEN", "older")]);
    stranger.wait_until_not_ready("no answer from");
}

#[test]
fn a_token_is_printed_nowhere() {
    // Goal: neither in a log line, whatever the level, nor in an answer, an error, the help or the
    // list of processes.
    let directory = Directory::new();
    let file = directory.of("token");
    fs::write(&file, "s3cret-of-nodes,s3cret-before\n").unwrap();
    let own = [
        ("CLUSTER_TOKEN_FILE", file.as_str()),
        ("API_TOKEN", "s3cret-of-clients"),
        ("LOG_LEVEL", "trace"),
        ("CHAOS", "1"),
    ];
    let cluster = Cluster::start(&[&own], &own[..3]);
    let right = "Authorization: Bearer s3cret-of-clients";
    assert_eq!(
        ask_with(&cluster.master, right, ("POST", "/messages", r#"{"msg":"m"}"#)).status,
        201
    );
    let mut seen = Vec::new();
    for node in cluster.nodes() {
        for path in ["/health", "/metrics", "/", "/openapi.json", "/messages"] {
            seen.push(
                ask_with(node, "Authorization: Bearer s3cret-wrong", ("GET", path, ""))
                    .text()
                    .into(),
            );
        }
        seen.push(fs::read_to_string(format!("/proc/{}/cmdline", node.id())).unwrap());
        seen.extend(node.printed());
    }
    for role in [Role::Master, Role::Secondary] {
        let help = role.run(&[("API_TOKEN", "s3cret"), ("PORT", "0")], &["--help"]);
        seen.push(String::from_utf8(help.stdout).unwrap());
        let wrong = role.run(&[("CLUSTER_TOKEN", "s3cret with blanks")], &[]);
        assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
        assert!(stderr(&wrong).contains("CLUSTER_TOKEN must be"), "{}", stderr(&wrong));
        seen.push(stderr(&wrong).into());
    }
    let told: Vec<&String> = seen.iter().filter(|text| text.contains("s3cret")).collect();
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn a_file_without_tokens_starts_nothing() {
    // Goal: an empty or missing file does not open the node to everybody, and one line says why.
    let directory = Directory::new();
    let (empty, missing) = (directory.of("empty"), directory.of("missing"));
    fs::write(&empty, "\n").unwrap();
    for (file, why) in [(&empty, "they must be tokens"), (&missing, "No such file")] {
        let output = Role::Secondary.run(&[("API_TOKEN_FILE", file), ("PORT", "0")], &[]);
        let said = stderr(&output);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
        assert!(said.contains(file.as_str()) && said.contains(why), "{said}");
    }
    let twice = [("API_TOKEN_FILE", empty.as_str()), ("API_TOKEN", "x")];
    let output = Role::Secondary.run(&twice, &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("only one of API_TOKEN and API_TOKEN_FILE"));
}

#[test]
fn an_open_node_says_so_once() {
    // Goal: one warning at the start of a node that others reach and that asks for no token.
    let open: [(Settings, usize); 3] = [
        (&[("HOST", "0.0.0.0")], 1),
        (&[("HOST", "0.0.0.0"), ("CLUSTER_TOKEN", "t")], 0),
        (&[("HOST", "127.0.0.1")], 0),
    ];
    for (settings, expected) in open {
        let node = Node::secondary(settings);
        let lines = node.printed();
        let warned = lines.iter().filter(|line| line.contains("CLUSTER_TOKEN")).count();
        assert_eq!(warned, expected, "{lines:?}");
    }
}

#[test]
fn a_strangers_body_is_not_read() {
    // Goal: the refusal comes before a byte of a body that was announced.
    let master = Node::master(&[], &[("API_TOKEN", "of-clients")]);
    let mut connection = master.connect();
    let head = "POST /messages HTTP/1.1\r\nHost: node\r\nContent-Length: 900000\r\n\r\n";
    connection.write(head.as_bytes()).unwrap();
    let answer = connection.read(false).unwrap();
    assert_eq!((answer.status, answer.header("Connection")), (401, Some("close")));
}

// Epochs

/// What a secondary answers to each call of a master that names this epoch.
fn name_epoch(secondary: &Node, epoch: u64) -> Vec<Answer> {
    let call = json!({ "epoch": epoch, "seq": 1, "msg": "stray" });
    let old =
        json!({ "epoch": 7, "entry_epoch": 7, "prev_epoch": epoch, "seq": 2, "msg": "stray" });
    let heartbeat = json!({ "epoch": epoch, "last_seq": 0, "committed_seq": 0 });
    let promise = json!({ "epoch": epoch, "takeover": true });
    let calls = [
        ("/replicate", call),
        ("/replicate", old),
        ("/heartbeat", heartbeat),
        ("/promise", promise),
    ];
    calls.iter().map(|(path, body)| secondary.send("POST", path, &body.to_string())).collect()
}

#[test]
fn an_epoch_beyond_the_clock_is_refused() {
    // Goal: one line does not end the cluster: nobody takes an epoch that is more than a day ahead,
    // and the log says so once in a while.
    let cluster = Cluster::start(&[&[], &[]], &[]);
    cluster.post("m1");
    let two_days_ahead = epochs::latest().0 + 24 * 60 * 60 * 1000 * epochs::PER_MILLISECOND;
    for epoch in [two_days_ahead, 1 << 53, 1 << 60] {
        for answer in name_epoch(&cluster.secondaries[0], epoch) {
            assert_eq!(answer.status, 400, "{epoch}: {}", answer.text());
            assert!(answer.text().contains("more than a day ahead"), "{}", answer.text());
        }
    }
    cluster.post("m2");
    assert_eq!(cluster.wait_until_equal(SOON).0, ["m1", "m2"]);
    let lines = cluster.secondaries[0].printed();
    let told = lines.iter().filter(|line| line.contains("a day ahead of the clock")).count();
    assert!((1..4).contains(&told), "{told} times in {lines:?}");
}

#[test]
fn the_greatest_epoch_is_followed() {
    // Goal: whoever names the greatest epoch that is taken ends a reign, and not the cluster: the
    // same master begins another one.
    let mut cluster = Cluster::start(&[&[], &[]], &[("HEARTBEAT_MS", "100")]);
    cluster.post("m1");
    let greatest = epochs::latest().0;
    let heartbeat = json!({ "epoch": greatest, "last_seq": 0, "committed_seq": 0,
        "silent_after_ms": 1 });
    for secondary in &cluster.secondaries {
        let answer = secondary.send("POST", "/heartbeat", &heartbeat.to_string());
        assert_eq!(answer.json()["epoch"], greatest, "{}", answer.text());
    }
    wait_until("another reign", SOON, || match cluster.master.health()["epoch"].as_u64() {
        Some(epoch) if epoch > greatest => Ok(()),
        epoch => Err(format!("{epoch:?}")),
    });
    cluster.wait_until_ready();
    cluster.post("m2");
    cluster.master.kill();
    cluster.master.restart();
    cluster.wait_until_ready();
    cluster.post("m3");
    assert_eq!(cluster.wait_until_equal(SOON).0, ["m1", "m2", "m3"]);
}

/// A secondary that acknowledges, and names an epoch that no clock has reached from its answer of
/// this number on.
fn lying_from(number: usize) -> Fake {
    let answers = AtomicUsize::new(0);
    Fake::start(move |request, stream| {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let mut answer = match request.is_replicate() {
            true => ack(&body, "a"),
            false => json!({
                "last_seq": 0, "last_epoch": 0, "epoch": body["epoch"], "instance": "a",
                "master": body["master"], "status": "ok", "count": 0, "delay_ms": 0,
            }),
        };
        if answers.fetch_add(1, SeqCst) >= number {
            answer["epoch"] = json!(1_u64 << 60);
        }
        respond(stream, 200, &answer.to_string())
    })
}

#[test]
fn a_lying_answer_ends_no_reign() {
    // Goal: a secondary that answers a heartbeat, a call or a question with an epoch beyond the
    // clock counts as one that fails, from the start or later.
    for number in [0, 5] {
        let (fake, honest) = (lying_from(number), Node::secondary(&[]));
        let settings = [("HEARTBEAT_MS", "20"), ("ACK_TIMEOUT_MS", "2000")];
        let master = Node::master(&[&honest.url(), &fake.url()], &settings);
        master.wait_until_ready();
        wait_until("noticed", SOON, || {
            let health = master.health();
            let status = &health["secondary_statuses"][fake.url()];
            let error = status["last_error"].as_str().unwrap_or_default();
            if error.contains("ahead of the clock") { Ok(()) } else { Err(health.to_string()) }
        });
        for _ in 0..5 {
            let answer = master.post_to("majority", "m", SOON);
            assert_eq!(answer.status, 201, "{}", answer.text());
        }
        assert_eq!(master.get("/ready").status, 200);
    }
}

/// Writes what a heartbeat of this epoch has left in the directory of a stopped node.
fn poison(directory: &str, role: store::Role, epoch: u64) {
    let opened = Store::open(directory.as_ref(), role, 9).expect("nobody uses it");
    let promised = Reign { epoch: Epoch(epoch), master: MasterId(7) };
    let facts = Facts { promised, log_epoch: promised.epoch, ..opened.facts };
    let nothing = opened.log.batch(opened.log.last_seq().next(), 0);
    opened.store.write(&nothing, &facts).expect("it can be written");
}

#[test]
fn a_poisoned_directory_has_a_way_out() {
    // Goal: nodes whose directories name an epoch beyond the clock do not start, and say what to
    // do. After `reset-epochs` of one of them the cluster has everything, and goes on.
    let directory = Directory::new();
    let dirs = ["m", "s0", "s1"].map(|name| directory.of(name));
    let settings = |of: usize| vec![("DATA_DIR", dirs[of].as_str()), ("PORT", "0")];
    let mut cluster = Cluster::start(&[&settings(1)[..1], &settings(2)[..1]], &settings(0)[..1]);
    cluster.post("m1");
    cluster.post("m2");
    cluster.master.kill();
    cluster.secondaries.iter_mut().for_each(Node::kill);
    drop(cluster);
    for (of, role) in
        [store::Role::Master, store::Role::Secondary, store::Role::Secondary].iter().enumerate()
    {
        poison(&dirs[of], *role, (1 << 60) + of as u64);
    }
    let refused = Role::Secondary.run(&settings(1), &[]);
    let said = stderr(&refused);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("a day ahead of the clock") && said.contains("reset-epochs"), "{said}");
    let reset = |dir: &str| Role::Master.run(&[], &["--data-dir", dir, "reset-epochs"]);
    let output = reset(&dirs[1]);
    assert!(output.status.success(), "{}", stderr(&output));
    let again = reset(&dirs[1]);
    assert!(String::from_utf8(again.stdout).unwrap().contains("reset=0"), "done once");
    for dir in [&dirs[0], &dirs[2]] {
        fs::remove_dir_all(dir).unwrap();
    }
    let cluster = Cluster::start(&[&settings(1)[..1], &settings(2)[..1]], &settings(0)[..1]);
    cluster.wait_until_ready();
    cluster.post("m3");
    assert_eq!(cluster.wait_until_equal(SOON).0, ["m1", "m2", "m3"]);
}

// Calls in the original's form

#[test]
fn a_driven_secondary_takes_no_stray() {
    // Goal: one stray call does not make a copy differ from its master, unless a setting allows it;
    // an original master in front of a secondary that has no other is served.
    let cluster = Cluster::start(&[&[], &[("ACCEPT_ORIGINAL", "1")]], &[]);
    cluster.post("m1");
    let stray = |node: &Node| node.send("POST", "/replicate", r#"{"msg":"stray"}"#);
    let refused = stray(&cluster.secondaries[0]);
    assert_eq!((refused.status, &refused.json()["stored"]), (409, &json!(false)));
    assert!(refused.text().contains("ACCEPT_ORIGINAL"), "{}", refused.text());
    assert_eq!(cluster.secondaries[0].log(), ["m1"]);
    assert_eq!(stray(&cluster.secondaries[1]).status, 200);
    assert_eq!(stray(&Node::secondary(&[])).status, 200);
}

#!/usr/bin/env python3
"""What every client sees, as a table: table.py MASTER SECONDARY [ROW...]

Both are binaries. Each client of table_clients.py goes through the same cases, at a cluster that is
started here; a cell says what was seen, a status or milliseconds. The clients of Node and Java, and
the proxies, pass on what curl asks. Then come raw requests, floods of clients that speak HTTP/2 or
TLS, and the session of the original's README.
"""
import contextlib
import itertools
import json
import os
import queue
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

from live import Node
from table_clients import ROWS, TIMEOUT, expect, until

SOON, MOST = 1, 170  # seconds: from a POST to its event, for all of it
FLOOD = 1000  # connections
BETWEEN = 20, 5  # threads, whose idle ones come and go with the machine's load, and descriptors
IDLE = 75  # seconds; with the default settings, whoever is silent is gone by then
numbers = itertools.count(1)


def message(**more):
    return json.dumps({"msg": f"message {next(numbers)}", **more}).encode()


def answered(status, got):
    expect(got.status == status, f"{got.status}, not {status}: {got.body[:300].decode(errors='replace')}")
    return got


def created(client, body, headers={}, streamed=False):
    return answered(201, client.call("POST", "/messages", body, headers, streamed)).json()


def accepts(make=message, headers={}, streamed=False):
    def case(client):
        expect(created(client, make(), headers, streamed)["seq"] >= 1, "no seq")
        return 201
    return case


def refuses(status, word, make, headers={}):
    """With an error that helps: in words, in detail, and with whether the message is in the log."""
    def case(client):
        told = answered(status, client.call("POST", "/messages", make(), headers)).json()
        expect(told["error"] and word in told["detail"] and told["stored"] is False, told)
        return status
    return case


def read(client):
    body = message()
    seq, msg = created(client, body)["seq"], json.loads(body)["msg"]
    told = answered(200, client.call("GET", f"/messages?from={seq}")).json()
    expect(told["messages"][0] == msg, told)
    told = answered(200, client.call("GET", f"/messages/{seq}")).json()
    expect(told == {"seq": seq, "msg": msg}, told)
    return 200


def missing(client):
    expect(answered(404, client.call("GET", "/messages/999999")).json()["error"], "no error")
    return 404


def key(client):
    body, headers = message(), {"Idempotency-Key": f"key-{next(numbers)}"}
    first, again = created(client, body, headers), created(client, body, headers)
    expect("duplicate" not in first and again["duplicate"] is True and again["seq"] == first["seq"], again)
    told = answered(422, client.call("POST", "/messages", message(), headers)).json()
    expect(told["seq"] == first["seq"] and told["stored"] is False, told)
    return 422


def minimal(client):
    told = created(client, message(), {"Prefer": "return=minimal"})
    expect("messages" not in told, told)
    return 201


def follow(client):
    """Each event arrives soon after its POST, while the stream stays open."""
    heard, delays = queue.Queue(), []
    for number in range(5):
        msg = "the last" if number == 4 else f"event {next(numbers)}"
        seq = client.master.call("POST", "/messages", {"msg": msg})["seq"]
        begin = time.monotonic()
        if number == 0:
            aside(heard, lambda: listen(client.follow(f"/messages/stream?from={seq}"), heard))
        told = take(heard, SOON if number else TIMEOUT)
        expect(told == {"seq": seq, "msg": msg}, told)
        delays.append(time.monotonic() - begin)
        time.sleep(0.2)
    return milliseconds(max(delays[1:]))


def listen(lines, heard):
    for line in lines:
        if line.startswith("data:"):
            heard.put(json.loads(line[5:]))
            if "the last" in line:
                return
    raise EOFError("the stream has ended")


def poll(client):
    def follower_has_gone():
        # The node finds out when it writes.
        client.master.call("POST", "/messages", {"msg": "anybody?"})
        return "replog_followers 0.0" in client.master.read("/metrics")
    until(TIMEOUT, follower_has_gone, "somebody still follows")
    seq, answers = client.master.call("GET", "/health")["last_seq"] + 1, queue.Queue()
    aside(answers, lambda: answers.put(client.call("GET", f"/messages?from={seq}&wait=14000")))
    until(TIMEOUT, lambda: "replog_followers 1.0" in client.master.read("/metrics"), "nobody waits")
    client.master.call("POST", "/messages", {"msg": "polled for"})
    begin = time.monotonic()
    told = answered(200, take(answers, SOON)).json()
    expect(told["messages"] == ["polled for"], told)
    return milliseconds(time.monotonic() - begin)


def head(client):
    expect(answered(200, client.call("HEAD", "/messages/1")).body == b"", "a body")
    return 200


def options(client):
    allow = answered(204, client.call("OPTIONS", "/messages")).headers["allow"]
    expect({"GET", "HEAD", "POST"} <= set(allow.split(", ")), allow)
    return 204


def encoded(client):
    expect(answered(200, client.call("GET", "/%6dessages?limit=1")).json()["messages"], "no messages")
    return 200


CASES = {
    "post": accepts(),
    "chunked": accepts(streamed=True),
    "close": accepts(headers={"Connection": "close"}, streamed=True),
    "null": accepts(lambda: message(w=None, wtimeout=None)),
    "BOM": accepts(lambda: b"\xef\xbb\xbf" + message()),
    "UTF-16": refuses(400, "UTF-16", lambda: message().decode().encode("utf-16")),
    "gzip": refuses(415, "gzip", message, {"Content-Encoding": "gzip"}),
    "error": refuses(400, "expected a string", lambda: b'{"msg": 5}'),
    "read": read, "404": missing, "key": key, "minimal": minimal, "follow": follow, "poll": poll,
    "HEAD": head, "OPTIONS": options, "/%6d": encoded,
}


def aside(results, function):
    """On a thread that nobody waits for; what goes wrong there is put among the results."""
    def run():
        try:
            function()
        except Exception as problem:
            results.put(problem)
    threading.Thread(target=run, daemon=True).start()


def take(results, seconds):
    try:
        found = results.get(timeout=seconds)
    except queue.Empty:
        raise AssertionError(f"nothing within {seconds} s") from None
    if isinstance(found, Exception):
        raise found
    return found


def milliseconds(seconds):
    return f"{seconds * 1000:.0f}ms"


def show_row(stack, name, master, failures):
    begin, cells, client = time.monotonic(), [], None

    def cell(case, function):
        nonlocal client
        try:
            if not client:
                client = ROWS[name](stack, master.url)
                client.master = master
            return "-" if case in client.cannot else str(function(client))
        except Exception as problem:
            failures.append(f"{name}, {case}: {type(problem).__name__} {problem}"[:600])
            return "FAILED"
    cells = [cell(case, function) for case, function in CASES.items()]
    print(f"{name:16}", *(f"{cell:>8}" for cell in cells), f"{time.monotonic() - begin:6.1f} s", flush=True)
    return len(cells)


def say(node, text, seconds=TIMEOUT, end=None):
    """Over a plain socket, until the end, or until the answer contains `end`."""
    with socket.create_connection(("127.0.0.1", node.port), seconds) as link:
        link.sendall(text)
        told = b""
        while not (end and end in told) and (piece := link.recv(65536)):
            told += piece
        return told


def no_host(master):
    told = say(master, b"GET /messages HTTP/1.1\r\nConnection: close\r\n\r\n")
    expect(told.startswith(b"HTTP/1.1 400 "), told)
    return told.split(b"\r\n")[0].decode()


def old_stream(master):
    told = say(master, b"GET /messages/stream HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n", end=b"data: ")
    expect(b"chunked" not in told.lower(), told)
    return "not chunked"


def prior_knowledge(master):
    command = ["curl", "-sS", "--http2-prior-knowledge", "--max-time", "1", f"{master.url}/messages"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    expect(done.returncode != 0, done.stdout)
    return done.stderr.strip()


def client_hello():
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def sizes(node):
    return [len(os.listdir(f"/proc/{node.process.pid}/{kind}")) for kind in ("task", "fd")]


def flood(node, hello):
    """How long honest clients waited at most, while there were so many that began with `hello`."""
    waits, is_over = [], threading.Event()

    def ask():
        while not is_over.is_set():
            begin = time.monotonic()
            node.call("POST", "/messages", {"msg": "honest", "w": 1}, {"Prefer": "return=minimal"})
            node.call("GET", "/messages/1")
            waits.append(time.monotonic() - begin)
    results = queue.Queue()
    with contextlib.ExitStack() as links:
        for number in range(FLOOD):
            if number == 100:
                aside(results, ask)
            links.enter_context(socket.create_connection(("127.0.0.1", node.port), TIMEOUT)).sendall(hello)
        time.sleep(2)
    is_over.set()
    expect(results.empty(), f"an honest client failed: {None if results.empty() else results.get()!r}")
    expect(max(waits) < 2 * SOON, f"an honest client waited for {milliseconds(max(waits))}")
    return f"{len(waits)} honest POSTs and GETs meanwhile, {milliseconds(max(waits))} at most"


def original_session(binaries):
    """The lines of the original's README, where one of two secondaries refuses the connection."""
    spent = []
    for _ in range(3):
        with contextlib.ExitStack() as stack:
            secondary = started(stack, binaries[1])
            refusing = stack.enter_context(socket.socket())
            refusing.bind(("127.0.0.1", 0))
            nobody = f"http://127.0.0.1:{refusing.getsockname()[1]}"
            master = started(stack, binaries[0], SECONDARIES=f"{secondary.url},{nobody}")
            line = """curl -s -X POST http://localhost:8000/messages   -H 'Content-Type: application/json'   -d '{"msg":"first"}'"""
            told = shell(f"{line} --write-out ' %{{http_code}} %{{time_total}}'", master)
            body, status, seconds = told.rsplit(" ", 2)
            expect(status == "502" and nobody in json.loads(body)["error"], told)
            spent.append(float(seconds))
            for node in (master, secondary):
                until(TIMEOUT, lambda: shell("curl -s http://localhost:8000/messages", node) == '{"messages":["first"]}', node.url)
    expect(min(spent) < 0.1 and max(spent) < SOON, [milliseconds(one) for one in spent])
    return f"502 after {', '.join(map(milliseconds, spent))}"


def shell(line, node):
    line = line.replace(":8000", f":{node.port}")
    return subprocess.run(line, shell=True, capture_output=True, text=True, timeout=TIMEOUT, check=True).stdout


def started(stack, binary, **settings):
    node = Node(binary, **settings)
    stack.callback(node.end)
    return node


def level(node, before):
    told = "never looked at"

    def is_level():
        nonlocal told
        now = sizes(node)
        told = f"{before} threads and descriptors before, {now} afterwards"
        return all(abs(one - other) <= most for one, other, most in zip(before, now, BETWEEN))
    begin = time.monotonic()
    while not is_level():
        expect(time.monotonic() < begin + IDLE, told)
        time.sleep(0.5)
    return f"{told}, {time.monotonic() - begin:.0f} s later"


def main():
    binaries, wanted = sys.argv[1:3], sys.argv[3:]
    count, failures = 0, []

    def attempt(name, function, *arguments):
        nonlocal count
        count += 1
        try:
            print(f"{name}: {function(*arguments)}", flush=True)
        except Exception as problem:
            failures.append(f"{name}: {type(problem).__name__} {problem}")

    with contextlib.ExitStack() as stack:
        alone = started(stack, binaries[0])
        master = started(stack, binaries[0], SECONDARIES=",".join(started(stack, binaries[1]).url for _ in range(2)))
        master.call("POST", "/messages", {"msg": "first"})
        # Of the threads for honest ones some stay idle for good, the others leave.
        flood(alone, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        calm = time.monotonic() + TIMEOUT
        print(" " * 16, *(f"{case:>8}" for case in CASES))
        for name in wanted or ROWS:
            count += show_row(stack, name, master, failures)
        attempt("HTTP/1.1 without Host", no_host, master)
        attempt("A stream over HTTP/1.0", old_stream, master)
        attempt("curl --http2-prior-knowledge", prior_knowledge, master)
        attempt("The original's session", original_session, binaries)
        time.sleep(max(0, calm - time.monotonic()))
        before = sizes(alone)
        attempt(f"{FLOOD} HTTP/2 prefaces", flood, alone, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        attempt(f"{FLOOD} TLS hellos", flood, alone, client_hello())
        attempt("After the floods", level, alone, before)
    print(*failures, f"{count - len(failures)} passed, {len(failures)} failed", sep="\n")
    sys.exit(bool(failures))


for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[name]
os.environ["PATH"] += ":/usr/sbin"
signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"FAILED: not over after {MOST} s"))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
signal.alarm(MOST)
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
main()

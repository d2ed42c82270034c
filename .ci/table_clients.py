"""The clients of .ci/table.py: each makes a call, and follows a stream line by line, in its own way."""
import asyncio
import contextlib
import http.client
import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import httpx
import requests
import sseclient

TIMEOUT = 15  # seconds, for every call
HERE, TOOLS = Path(__file__).parent, Path(sys.executable).parent
NGINX = """daemon off; master_process off; pid {work}/pid; error_log {work}/log; events {{}}
http {{ access_log off; client_body_temp_path {work}/0; proxy_temp_path {work}/1; fastcgi_temp_path {work}/2;
uwsgi_temp_path {work}/3; scgi_temp_path {work}/4; upstream node {{ server {node}; keepalive 4; }}
server {{ listen 127.0.0.1:{port}; location / {{ OPTIONS }} }} }}"""
NGINX_1_1 = 'proxy_pass http://node; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;'
HAPROXY = """defaults
 mode http
 timeout connect 5s
 timeout client 60s
 timeout server 60s
listen all
 bind 127.0.0.1:{port}
 server node {node}
"""


def expect(is_so, seen):
    if not is_so:
        raise AssertionError(seen)


def until(seconds, is_so, otherwise):
    deadline = time.monotonic() + seconds
    while not is_so():
        expect(time.monotonic() < deadline, f"{otherwise} within {seconds:.0f} s")
        time.sleep(0.05)


class Answer(NamedTuple):
    status: int
    headers: dict
    body: bytes

    def json(self):
        return json.loads(self.body)


def answer(status, headers, body):
    return Answer(status, {name.lower(): value for name, value in headers.items()}, body)


def parse(raw):
    """An answer as it stands on the wire, without interim ones."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    status = int(first.split()[1])
    return parse(body) if status < 200 else answer(status, dict(line.split(": ", 1) for line in lines), body)


def pieces(body):
    yield body[:5]
    yield body[5:]


class Client:
    cannot = ()  # names of cases

    def __init__(self, url):
        self.url = url


class Program(Client):
    """Started anew for each call; prints the head of the answer and its body."""

    def call(self, method, path, body=b"", headers={}, streamed=False):
        command = self.command(method, self.url + path, headers, bool(body), streamed)
        with tempfile.TemporaryFile() as given:
            given.write(body)
            given.seek(0)
            return self.read(subprocess.run(command, stdin=given, capture_output=True, timeout=TIMEOUT, check=False))

    def read(self, done):
        if done.returncode != 0:
            raise RuntimeError(f"exit {done.returncode}: {done.stderr.decode()}")
        return parse(done.stdout)

    def follow(self, path):
        with subprocess.Popen([*self.following, self.url + path], stdout=subprocess.PIPE, text=True) as process:
            try:
                yield from process.stdout
            finally:
                process.kill()


class Curl(Program):
    def __init__(self, url, *options):
        super().__init__(url)
        self.options = options
        self.following = "curl", "-sN", *options

    def command(self, method, url, headers, has_body, streamed):
        shape = ["--head"] if method == "HEAD" else ["-X", method]
        data = ["-T", "-"] if streamed else ["--data-binary", "@-"] if has_body else []
        named = [f"-H{name}: {value}" for name, value in headers.items()]
        return ["curl", "-sSi", "--path-as-is", *self.options, *shape, *named, *data, url]


class Wget(Program):
    cannot = "chunked", "close"
    following = "wget", "-qO-"

    def command(self, method, url, headers, has_body, streamed):
        named = [f"--header={name}: {value}" for name, value in headers.items()]
        data = ["--body-file=/dev/stdin"] if has_body else []
        return ["wget", "-qSO-", "--content-on-error", f"--method={method}", *named, *data, url]

    def read(self, done):
        head = [line.strip() for line in done.stderr.decode().splitlines() if line.startswith("  ")]
        return parse("\r\n".join(head).encode() + b"\r\n\r\n" + done.stdout)


class Httpie(Program):
    following = TOOLS / "http", "--ignore-stdin", "--stream", "--body"

    def command(self, method, url, headers, has_body, streamed):
        options = ["--chunked"] * streamed + ["--ignore-stdin"] * (not has_body)
        named = [f"{name}:{value}" for name, value in headers.items()]
        return [TOOLS / "http", "--print=hb", "--pretty=none", *options, method, url, *named]


class Requests(Client):
    def __init__(self, url):
        super().__init__(url)
        self.session = requests.Session()

    def call(self, method, path, body=b"", headers={}, streamed=False):
        data = pieces(body) if streamed else body
        got = self.session.request(method, self.url + path, data=data, headers=headers, timeout=TIMEOUT)
        return answer(got.status_code, got.headers, got.content)

    def follow(self, path):
        with self.session.get(self.url + path, stream=True) as got:
            for line in got.iter_lines():
                yield line.decode()


class Sse(Requests):
    def follow(self, path):
        with self.session.get(self.url + path, stream=True) as got:
            for event in sseclient.SSEClient(got).events():
                yield f"data: {event.data}"


class Httpx(Client):
    def __init__(self, url):
        super().__init__(url)
        self.client = httpx.Client(timeout=TIMEOUT)

    def call(self, method, path, body=b"", headers={}, streamed=False):
        content = pieces(body) if streamed else body
        got = self.client.request(method, self.url + path, content=content, headers=headers)
        return answer(got.status_code, got.headers, got.content)

    def follow(self, path):
        with self.client.stream("GET", self.url + path) as got:
            yield from got.iter_lines()


class Aiohttp(Client):
    @contextlib.asynccontextmanager
    async def open(self, method, path, **options):
        async with aiohttp.ClientSession() as session, session.request(method, self.url + path, **options) as got:
            yield got

    def call(self, method, path, body=b"", headers={}, streamed=False):
        async def make():
            async with self.open(method, path, data=body, headers=headers, chunked=streamed or None) as got:
                return answer(got.status, got.headers, await got.read())
        return asyncio.run(asyncio.wait_for(make(), TIMEOUT))

    def follow(self, path):
        async def lines():
            async with self.open("GET", path) as got:
                async for line in got.content:
                    yield line.decode()
        with asyncio.Runner() as runner:
            generator = lines()
            try:
                while True:
                    yield runner.run(anext(generator))
            finally:
                runner.run(generator.aclose())


class Standard(Client):
    """Python's http.client, on one connection."""

    def __init__(self, url):
        super().__init__(url)
        self.link = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)

    def call(self, method, path, body=b"", headers={}, streamed=False):
        self.link.request(method, path, pieces(body) if streamed else body, headers, encode_chunked=streamed)
        got = self.link.getresponse()
        return answer(got.status, got.headers, got.read())

    def follow(self, path):
        link = Standard(self.url).link
        link.request("GET", path)
        for line in link.getresponse():
            yield line.decode()


class Generated(Client):
    """What openapi-python-client makes of the description; only what it has parsed is looked at."""
    cannot = "chunked", "close", "BOM", "UTF-16", "gzip", "follow", "poll", "HEAD", "OPTIONS", "/%6d"

    def __init__(self, url, work):
        super().__init__(url)
        config = work / "config.json"
        config.write_text('{"content_type_overrides": {"application/openmetrics-text": "text/plain"}}')
        done = subprocess.run(
            [TOOLS / "openapi-python-client", "generate", "--url", f"{url}/openapi.json", "--meta", "none",
             "--fail-on-warning", "--output-path", work / "generated", "--config", config],
            env=os.environ | {"PATH": f"{TOOLS}:{os.environ['PATH']}"}, capture_output=True, timeout=60, check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stdout.decode())
        sys.path.insert(0, str(work))
        self.client = importlib.import_module("generated").Client(url)

    def call(self, method, path, body=b"", headers={}, streamed=False):
        place, _, query = path.partition("?")
        named = {name.lower().replace("-", "_"): value for name, value in headers.items()}
        if method == "POST":
            new = importlib.import_module("generated.models").NewMessage.from_dict(json.loads(body))
            name, arguments = "append", {"body": new, **named}
        elif place == "/messages":
            name, arguments = "read_log", {{"from": "from_"}.get(name, name): int(value) for name, value in parse_qsl(query)}
        else:
            name, arguments = "read_entry", {"seq": int(place.rpartition("/")[2])}
        operation = importlib.import_module(f"generated.api.log.{name}").sync_detailed
        got = operation(client=self.client, **arguments)
        return answer(got.status_code, got.headers, json.dumps(got.parsed.to_dict()).encode())


def directory(stack):
    return Path(stack.enter_context(tempfile.TemporaryDirectory()))


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def passing(stack, url, command, settings=""):
    """The URL of a program that passes requests on."""
    work, port = directory(stack), free_port()
    names = {"work": work, "port": port, "url": url, "node": url.removeprefix("http://"), "here": HERE}
    (work / "settings").write_text(settings.format(**names))
    process = stack.enter_context(subprocess.Popen([part.format(**names) for part in command.split()]))
    stack.callback(process.terminate)
    until(2 * TIMEOUT, lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, f"{command} does not listen")
    return f"http://127.0.0.1:{port}"


CLIENTS = {"curl": Curl, "wget": Wget, "httpie": Httpie, "requests": Requests, "sseclient-py": Sse, "httpx": Httpx,
           "aiohttp": Aiohttp, "http.client": Standard}
ROWS = {name: lambda stack, url, client=client: client(url) for name, client in CLIENTS.items()} | {
    "curl --http2": lambda stack, url: Curl(url, "--http2"),
    "curl -x": lambda stack, url: Curl(url, "-x", url),
    "generated client": lambda stack, url: Generated(url, directory(stack)),
} | {name: lambda stack, url, how=how: Curl(passing(stack, url, *how)) for name, how in {
    "Node fetch": ["node {here}/table_node.mjs {url} {port} fetch"],
    "Node http": ["node {here}/table_node.mjs {url} {port} request"],
    "Node http.Agent": ["node {here}/table_node.mjs {url} {port} agent"],
    "Java HttpClient": ["java {here}/TableJava.java {url} {port}"],
    "nginx": ["nginx -c {work}/settings", NGINX.replace("OPTIONS", "proxy_pass http://node;")],
    "nginx, HTTP/1.1": ["nginx -c {work}/settings", NGINX.replace("OPTIONS", NGINX_1_1)],
    "haproxy": ["haproxy -f {work}/settings", HAPROXY],
}.items()}

#!/usr/bin/env python3
"""A proxy that loses answers: lossy.py URL CUTS, for .ci/clients.sh

Prints its own URL, and then a word for each thing that it did. It passes the first POST on and
throws the answer away, refuses the second with 503, leads the third with 307 to itself, and breaks
the first CUTS answers to somebody who follows the log off in the middle. Everything else it passes
on as it is.
"""
import http.server
import itertools
import json
import sys
import threading
import urllib.error
import urllib.request

NOT_PASSED_ON = {"host", "connection", "accept-encoding", "content-length"}
ANSWERED_WITH = ("Content-Type", "Content-Length", "Cache-Control")

posts, follows = itertools.count(1), itertools.count(1)
say_lock = threading.Lock()


def say(word):
    with say_lock:
        print(word, flush=True)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        number = next(posts)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if number == 2:
            say("refused")
            self.send_error(503)
            return
        if number == 3:
            self.lead()
            return
        with self.ask(body) as answer:
            if number == 1:
                answer.read()
                say("lost")
            else:
                say(f"posted {answer.status}")
                self.pass_on(answer)

    def lead(self):
        say("led")
        master = f"http://{self.headers['Host']}"
        body = json.dumps({"error": "not reigning", "stored": False, "master": master}).encode()
        self.send_response(307)
        self.send_header("Location", master + self.path)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        follows_log = "/stream" in self.path or "wait=" in self.path
        is_cut = follows_log and next(follows) <= int(sys.argv[2])
        with self.ask() as answer:
            self.pass_on(answer, is_cut)

    def ask(self, body=None):
        headers = {k: v for k, v in self.headers.items() if k.lower() not in NOT_PASSED_ON}
        request = urllib.request.Request(sys.argv[1] + self.path, body, headers)
        try:
            return urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            return error

    def pass_on(self, answer, is_cut=False):
        self.send_response(answer.status)
        for name in ANSWERED_WITH:
            if name in answer.headers:
                self.send_header(name, answer.headers[name])
        self.end_headers()
        try:
            while piece := answer.read1(65536):
                if is_cut:
                    self.wfile.write(piece[: len(piece) // 2])
                    say("cut")
                    return
                self.wfile.write(piece)
        except OSError:
            pass  # the client has gone

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
say(f"http://127.0.0.1:{server.server_port}")
server.serve_forever()

#!/usr/bin/env python3
"""What pages of others can do to nodes, in a real browser: strangers.py MASTER SECONDARY

Both are binaries. Debian's Chromium, headless, opens pages of other origins, pages under a name that
resolves to a node, and a page with the live page in a frame. Nothing may come of it, and the nodes
must have heard of each try: what the browser alone refuses shows nothing.
"""
import contextlib
import http.server
import json
import sys
import threading

from selenium.webdriver.common.keys import Keys

from live import Node, Page, check, open_browser

EVIL = "evil.example"  # resolves to this machine
STRAY = {"msg": "stray"}

# fetch(ADDRESS, OPTIONS): what became of it.
FETCH = """
    const [address, options, done] = arguments;
    fetch(address, options).then((answer) => done(`${answer.type} ${answer.status}`), () => done("failed"));"""


class Foreign(http.server.BaseHTTPRequestHandler):
    """A page of somebody else; its path may name a page to be framed."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        framed = self.path.partition("?")[2]
        frame = f'<iframe src="{framed}" onload="window.framed = true"></iframe>' if framed else ""
        self.wfile.write(f"<!doctype html><title>foreign</title>{frame}".encode())

    def log_message(self, *_):
        pass


def serve(stack):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Foreign)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stack.callback(server.shutdown)
    return server.server_port


def fetch(page, address, method="GET", body=None, **options):
    """From the page that is open."""
    options |= {"method": method} | ({} if body is None else {"body": json.dumps(body)})
    return page.driver.execute_async_script(FETCH, address, options)


def post_form(page, address, body):
    """A text/plain form whose one field, name=value, is this object, and a member that is no matter."""
    text = json.dumps(body)
    page.driver.execute_script("""
        const [action, name] = arguments;
        const form = Object.assign(document.createElement("form"), { action, method: "post", enctype: "text/plain" });
        form.append(Object.assign(document.createElement("input"), { name, value: '"}' }));
        document.body.append(form);
        form.submit();""", address, f'{text[:-1]}, "form": "')
    page.until(f"answer to the form at {address}", lambda: page.driver.current_url == address)
    return page.text("body")


def refusals(node, reason):
    metrics = node.read("/metrics")
    return int(metrics.split(f'replog_refused_total{{reason="{reason}"}} ')[1].split()[0])


def standing(nodes):
    """What a stranger could have changed."""
    told = [node.call("GET", "/health") for node in nodes]
    logs = [node.call("GET", "/messages")["messages"] for node in nodes]
    return [health.get("epoch") for health in told], logs, nodes[1].call("GET", "/chaos")


def foreign_pages(page, nodes, port):
    print("1. Pages of other origins change nothing.")
    master, secondary = nodes
    before = standing(nodes)
    heartbeat = {"epoch": before[0][0] + 1, "last_seq": 0, "committed_seq": 0}
    targets = [(master, "/messages", STRAY), (secondary, "/replicate", STRAY), (secondary, "/heartbeat", heartbeat)]
    for host in ("127.0.0.1", "localhost", EVIL):
        for node, path, body in targets:
            page.driver.get(f"http://{host}:{port}/")
            counted = refusals(node, "cross_origin")
            sent = fetch(page, node.url + path, "POST", body, mode="no-cors")
            answer = post_form(page, node.url + path, body)
            check("another origin" in answer, f"{host}, a form to {path}: {answer}")
            counted = refusals(node, "cross_origin") - counted
            check(counted == 2, f"{host}, {path}: {counted} tries were refused, the fetch was {sent}")
        page.driver.get(f"http://{host}:{port}/")
        for node, path in ((secondary, "/chaos"), (master, "/secondaries/0/chaos")):
            moved = fetch(page, node.url + path, "PUT", {"delay_ms": 9000})
            check(moved == "failed", f"{host}, the sliders: {moved}")
        read = fetch(page, f"{master.url}/messages")
        check(read == "failed", f"{host}, the log: {read}")
    check(standing(nodes) == before, f"all is as it was: {before}")


def rebinding(page, nodes):
    print("2. A page under a foreign name that resolves to a node gets nothing.")
    master, secondary = nodes
    before = standing(nodes)
    for node, path, slider in ((master, "/", "/secondaries/0/chaos"), (secondary, "/messages", "/chaos")):
        port = node.url.rsplit(":", 1)[1]
        page.driver.get(f"http://{EVIL}:{port}{path}")
        check("ALLOWED_HOSTS" in page.text("body"), f"{path}: {page.text('body')}")
        for method, own, body in (("GET", "/messages", None), ("GET", "/health", None), ("PUT", slider, {"delay_ms": 9000})):
            answer = fetch(page, own, method, body)
            check(answer == "basic 421", f"{method} {own}: {answer}")
    check(standing(nodes) == before, "all is as it was")


def frames(page, master, port):
    print("3. The live page is in no frame.")
    page.driver.get(f"http://127.0.0.1:{port}/?{master.url}/")
    page.until("a frame", lambda: page.driver.execute_script("return window.framed"))
    page.driver.switch_to.frame(0)
    shown = page.driver.execute_script("return [document.URL, document.querySelectorAll('#msg').length]")
    check(shown == ["chrome-error://chromewebdata/", 0], f"it shows {shown}")
    page.driver.switch_to.default_content()


def own_page(page, nodes):
    print("4. The page itself works, and runs no script but its own.")
    master, secondary = nodes
    page.open(master.url)
    page.until_shown("connection Connected")
    page.append("mine")
    page.until_result("stored as entry 2 on 2 nodes")
    slider = page.until("slider", lambda: page.find("#delay-0"))[0]
    slider.send_keys(Keys.ARROW_RIGHT)
    page.until("a delay of 100 ms", lambda: secondary.call("GET", "/chaos")["delay_ms"] == 100)
    ran = page.driver.execute_async_script("""
        const [done] = arguments;
        const script = document.createElement("script");
        script.textContent = "window.injected = 'a script'";
        const image = document.createElement("img");
        image.setAttribute("onerror", "window.injected = 'a handler'");
        image.src = "data:none";
        // Listened to last, so the handler has had its turn.
        image.addEventListener("error", () => done(window.injected ?? "nothing"));
        document.body.append(script, image);""")
    check(ran == "nothing", f"of what was injected {ran} ran")


def main():
    master_binary, secondary_binary = sys.argv[1:]
    with contextlib.ExitStack() as stack:
        page = Page(open_browser(stack, f"--host-resolver-rules=MAP {EVIL} 127.0.0.1"))
        page.driver.set_script_timeout(15)
        secondary = Node(secondary_binary, CHAOS="1")
        stack.callback(secondary.end)
        master = Node(master_binary, SECONDARIES=secondary.url)
        stack.callback(master.end)
        nodes, port = (master, secondary), serve(stack)
        page.until("a reign", lambda: master.call("POST", "/messages", {"msg": "first"})["seq"] == 1)
        foreign_pages(page, nodes, port)
        rebinding(page, nodes)
        frames(page, master, port)
        own_page(page, nodes)
    print("Strangers' pages get nothing.")


main()

#!/usr/bin/env python3
"""The live page in a real browser: browser.py MASTER SECONDARY SCREENSHOT

Starts a cluster of its own from the two binaries, opens the page in Debian's Chromium, headless, and
looks at what somebody would see and do there. Needs chromium, chromedriver, selenium and axe-core.
"""
import base64
import contextlib
import signal
import sys
import time
import urllib.request
from pathlib import Path

from axe_core_python.selenium import Axe
from selenium.webdriver.common.keys import Keys

from live import SOON, Node, Page, check, open_browser

MANY = 100_000


def start_cluster(stack, master_binary, secondary_binary, many=0):
    secondaries = [Node(secondary_binary, CHAOS="1", NODE_NAME=f"secondary{n}") for n in (1, 2)]
    for secondary in secondaries:
        stack.callback(secondary.end)
    for first in range(0, many, 10_000):
        batch = {"epoch": 1, "prev_epoch": min(first, 1), "entry_epoch": 1, "seq": first + 1,
                 "entries": [f"{n + 1:080}" for n in range(first, first + 10_000)]}
        for secondary in secondaries:
            secondary.call("POST", "/replicate", batch)
    master = Node(master_binary, SECONDARIES=",".join(node.url for node in secondaries), HEARTBEAT_MS="300",
                  MAX_FOLLOWERS="2")
    stack.callback(master.end)
    return master, secondaries


def opened(page, master):
    print("0. A page too many waits for its turn.")
    seats = [urllib.request.urlopen(master.url + "/events", timeout=SOON) for _ in range(2)]
    page.open(master.url)
    page.until_shown("connection Disconnected")
    for seat in seats:
        seat.close()
    page.until_shown("connection Connected")


def appends(page):
    print("1. An append, by keyboard, is seen on every node.")
    page.append("hello")
    page.until_result("stored as entry 1 on 3 nodes")
    for node in ("master", "0", "1"):
        page.until_entry(node, 1)
    check("hello" in page.text('[data-node="1"] .log'), "the message is in the second secondary's column")


def slow(page, secondary):
    print("2. A slow secondary's bar is long, and the POST is as slow.")
    slider = page.until("slider", lambda: page.find("#delay-0"))[0]
    slider.send_keys(Keys.ARROW_RIGHT * 12)
    page.until("a delay of 1200 ms", lambda: secondary.call("GET", "/chaos")["delay_ms"] == 1200)
    page.append("slowed")
    (slow_ms, slow_width), (fast_ms, fast_width) = page.bar(2, 0), page.bar(2, 1)
    page.until_result("stored as entry 2 on 3 nodes")
    check(slow_ms >= 1200 > 4 * fast_ms, f"bars of {slow_ms} and {fast_ms} ms")
    check(slow_width > 4 * fast_width, f"{slow_width:.0f} and {fast_width:.0f} pixels long")
    check(f"when 127.0.0.1:{secondary.port} had acknowledged" in page.text('.append[data-seq="2"]'),
          "it is named as the one that the answer waited for")
    check(len(page.find('.append[data-seq="2"] .decisive .bar[data-secondary="0"]')) == 1, "its bar is the strong one")
    page.append("only two nodes are needed", w="2")
    page.until_result("stored as entry 3 on 2 nodes")
    page.until("latency", lambda: "half within" in page.text("#latency"))
    for plot in ("rate", "latency"):
        points = page.find(f"#{plot}-plot polyline")[0].get_attribute("points").split()
        check(min(float(point.split(",")[1]) for point in points) < 50, f"the plot of the {plot} has a peak")


def paused(page, secondary, screenshot):
    print("3. A paused secondary becomes Suspected, then Unhealthy, and is caught up.")
    page.until("level", lambda: page.text('[data-node="0"] .status') == "Healthy")
    page.forget_shown()
    secondary.signal(signal.SIGSTOP)
    page.append("while it was paused", w="majority")
    page.until_result("stored as entry 4 on 2 nodes")
    page.until_shown("0 Suspected: it has missed heartbeats")
    page.until_shown("0 Unhealthy: it does not answer")
    check(len(page.find('[data-node="0"] .missing')) >= 1, "the entry is missing in its column")
    check(not page.find('[data-node="0"] .entry[data-seq="4"]'), "it is not shown as held")
    lags = [page.find(f'[data-node="{node}"] .lag i')[0].size["width"] for node in (0, 1)]
    check(lags[0] > 0 == lags[1], f"its lag bar is {lags[0]} pixels long, the other's {lags[1]}")
    page.emulate(1000, "light")
    take_screenshot(page, screenshot)
    shown = page.driver.execute_script("return window.shown")
    words = [word.split(":")[0] for word in shown if word.startswith("0 ")]
    check(words.index("0 Suspected") < words.index("0 Unhealthy"), f"in this order: {words}")
    page.forget_shown()
    secondary.signal(signal.SIGCONT)
    page.until_shown("0 Healthy, catching up")
    page.until_entry("0", 4)
    page.until("healthy again", lambda: page.text('[data-node="0"] .status') == "Healthy")


def take_screenshot(page, path):
    # Without the plots, which show little after some seconds.
    size = page.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    height = page.driver.execute_script(
        "return scrollY + document.getElementById('timelines').closest('section').getBoundingClientRect().bottom + 12")
    area = {"x": 0, "y": 0, "width": size["width"], "height": height, "scale": 1}
    shot = page.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": area})
    Path(path).write_bytes(base64.b64decode(shot["data"]))
    check(Path(path).stat().st_size < 200_000, f"the screenshot has {Path(path).stat().st_size} bytes")


def refused(page):
    print("4. What is refused is said in plain words.")
    page.append("x", w="9")
    page.until_result("not stored. Write concern w must be between 1 and 3")
    page.append("once", key="k1")
    page.until_result("stored as entry 5")
    page.append("once", key="k1")
    page.until_result("was there already, as entry 5")
    page.append("twice", key="k1")
    page.until_result("this key belongs to another message, entry 5")


def disconnected(page, stack, master, master_binary):
    print("5. A master that is gone is shown, and found again.")
    epoch = page.text("#facts").split(" ·")[0]
    master.signal(signal.SIGSTOP)
    page.until_shown("connection Disconnected")
    page.append("lost?")
    master.signal(signal.SIGCONT)
    page.until("connected", lambda: page.text("#connection") == "Connected")
    page.until_result("stored as entry 6")
    master.end()
    page.until("disconnected", lambda: page.text("#connection") == "Disconnected")
    page.append("nobody hears it")
    page.until_result("no answer. Whether it was stored is unknown")
    again = Node(master_binary, port=master.port, **master.settings)
    stack.callback(again.end)
    page.until("connected", lambda: page.text("#connection") == "Connected")
    page.until("another epoch", lambda: page.text("#facts").split(" ·")[0] not in ("", epoch))
    page.until_entry("master", 6)
    return again


def failing(page, secondary):
    print("6. A secondary that fails makes a POST fail, and is named.")
    slider = page.until("slider", lambda: page.find("#errors-1"))[0]
    slider.send_keys(Keys.END)
    page.until("errors", lambda: secondary.call("GET", "/chaos")["error_rate"] == 1)
    page.append("not everywhere")
    page.until_result("reaches every node later, but not acknowledged as asked")
    check(secondary.url in page.text("#result li"), "the answer names it")
    slider.send_keys(Keys.HOME)
    page.until("no errors", lambda: secondary.call("GET", "/chaos")["error_rate"] == 0)
    page.until_entry("1", 7)


def looks(page):
    print("7. It fits a phone, and is light and dark; nothing is without a name.")
    for width, scheme in ((375, "light"), (375, "dark"), (1200, "dark"), (1200, "light")):
        page.emulate(width, scheme)
        needed = page.driver.execute_script("return document.documentElement.scrollWidth")
        check(needed <= width, f"{scheme}, {width} pixels wide: {needed} are needed")
        report = Axe().run(page.driver)
        # A rule that itself fails is incomplete, without naming a node.
        found = report["violations"] + [one for one in report["incomplete"] if not one["nodes"]]
        told = [(one["id"], one["help"], [node["html"] for node in one["nodes"]][:3]) for one in found]
        check(not told, f"axe finds nothing {told or ''}")


def taken_over(page, stack, secondaries, master_binary):
    print("8. A second master stands by and takes over, and the page goes there.")
    first = page.driver.current_url.rstrip("/")
    second = Node(master_binary, SECONDARIES=",".join(node.url for node in secondaries))
    stack.callback(second.end)
    page.until("a standby", lambda: page.text("#reign") == f"Stands by: 127.0.0.1:{second.port}")
    page.open(second.url)
    page.until_shown("master Stands by")
    page.until("who reigns", lambda: page.find(f'#reign a[href="{first}"]'))
    check("does not reign" in page.text("#facts"), "its own reign is none")
    page.append("here?")
    page.until_result("not stored: this master stands by")
    page.find("#reign a")[0].click()
    page.until("the reigning one", lambda: page.text('[data-node="master"] .status') == "Takes messages")
    page.until("the standby", lambda: page.find(f'#reign a[href="{second.url}"]'))
    return second


def lost(page, master, second):
    master.end()
    page.until("the page of the other one", lambda: page.driver.current_url == f"{second.url}/")
    page.until("its reign", lambda: page.text('[data-node="master"] .status') == "Takes messages")
    check("· since " in page.text("#facts"), "it says since when it reigns")
    page.append("taken over")
    page.until_result("stored as entry 8 on 3 nodes")


def many(page, master):
    print(f"9. {MANY} entries do not slow it.")
    page.open(master.url)
    page.until_entry("master", MANY)
    elements = len(page.find("*"))
    check(elements < 600, f"{elements} elements in the document")
    begin = time.monotonic()
    page.append("one more")
    page.until_entry("1", MANY + 1)
    took = time.monotonic() - begin
    check(took < 3, f"an append is seen {took:.1f} s later, typing included")


def main():
    master_binary, secondary_binary, screenshot = sys.argv[1:]
    with contextlib.ExitStack() as stack:
        driver = open_browser(stack)
        page = Page(driver)
        master, secondaries = start_cluster(stack, master_binary, secondary_binary)
        opened(page, master)
        appends(page)
        slow(page, secondaries[0])
        paused(page, secondaries[0], screenshot)
        refused(page)
        master = disconnected(page, stack, master, master_binary)
        failing(page, secondaries[1])
        looks(page)
        lost(page, master, taken_over(page, stack, secondaries, master_binary))
        with contextlib.ExitStack() as other:
            master, _ = start_cluster(other, master_binary, secondary_binary, MANY)
            many(page, master)
        # Calls that were refused or not answered are logged by the browser itself.
        errors = [line["message"] for line in driver.get_log("browser")
                  if line["level"] == "SEVERE" and "Failed to load resource" not in line["message"]]
        check(not errors, f"no script has failed {errors or ''}")
    print("The page does what it should.")


main()

"""Nodes and a real browser: what .ci/browser.py and .ci/strangers.py share."""
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.request

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

SOON = 15  # seconds; nothing is waited for longer


class Node:
    """A process that was started here, and is ended here."""

    def __init__(self, binary, port=0, **settings):
        environment = {"PATH": os.environ["PATH"], "PORT": str(port), **settings}
        self.settings, self.binary = settings, binary
        self.process = subprocess.Popen([binary], env=environment, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if "ready addr=" in line:
                self.port = int(line.split("ready addr=")[1].split()[0].rsplit(":", 1)[1])
                break
        else:
            sys.exit(f"{binary} is not ready")
        self.url = f"http://127.0.0.1:{self.port}"
        # Its log lines are not looked at, but it must not wait for a reader of them.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def signal(self, number):
        self.process.send_signal(number)

    def call(self, method, path, body=None, headers=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers or {}, method=method)
        with urllib.request.urlopen(request, timeout=SOON) as answer:
            return json.load(answer)

    def read(self, path):
        with urllib.request.urlopen(self.url + path, timeout=SOON) as answer:
            return answer.read().decode()

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
            self.process.wait()


class Page:
    """The page, and what can be seen on it."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, url):
        self.driver.get(url)
        # Every word that a badge has shown, so that no short one is missed.
        self.driver.execute_script("""
            window.shown = [];
            const note = () => document.querySelectorAll(".status").forEach((badge) => {
                const node = badge.closest("[data-node]")?.dataset.node ?? badge.id;
                const word = `${node} ${badge.textContent}`;
                if (!window.shown.includes(word)) window.shown.push(word);
            });
            new MutationObserver(note).observe(document.body, { childList: true, subtree: true, characterData: true });
            note();""")

    def find(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.driver.execute_script(
            "return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def until(self, what, is_so):
        def told(_):
            return is_so()
        try:
            return WebDriverWait(self.driver, SOON, poll_frequency=0.05).until(told)
        except Exception as error:
            raise SystemExit(f"FAILED: not {what}\n{self.text('body')}\n{error}") from error

    def until_shown(self, word):
        self.until(word, lambda: word in self.driver.execute_script("return window.shown"))

    def until_entry(self, node, seq):
        self.until(f"entry {seq} at {node}", lambda: self.find(f'[data-node="{node}"] .entry[data-seq="{seq}"]'))

    def append(self, msg, w="", wtimeout="", key=""):
        for name, value in {"w": w, "wtimeout": wtimeout, "key": key, "msg": msg}.items():
            field = self.find(f"#{name}")[0]
            field.clear()
            field.send_keys(value)
        self.find("#msg")[0].send_keys(Keys.ENTER)

    def until_result(self, words):
        self.until(words, lambda: words in self.text("#result li"))

    def bar(self, seq, secondary):
        """Milliseconds and width of a bar, once it has ended."""
        selector = f'#timelines .append[data-seq="{seq}"] .bar[data-secondary="{secondary}"]'

        def ended():
            return self.driver.execute_script("""
                const bar = document.querySelector(arguments[0]);
                return bar?.dataset.ms ? [Number(bar.dataset.ms), bar.getBoundingClientRect().width] : null;""", selector)
        return self.until(f"bar {selector}", ended)

    def forget_shown(self):
        self.driver.execute_script("window.shown = []")

    def emulate(self, width, scheme):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]})


def check(is_so, what):
    if not is_so:
        raise SystemExit(f"FAILED: {what}")
    print(f"   ok: {what}")


def open_browser(stack, *arguments):
    """Debian's Chromium, headless, until the end of the stack."""
    profile = stack.enter_context(tempfile.TemporaryDirectory())
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--hide-scrollbars", "--window-size=1200,900", f"--user-data-dir={profile}", *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    stack.callback(driver.quit)
    return driver

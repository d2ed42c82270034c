#!/usr/bin/env python3
"""Runs a script in a page, in headless Chromium: page.py URL SCRIPT, for .ci/clients.sh

Prints what the script logs, until it is ended.
"""
import shutil
import signal
import sys
import time
from pathlib import Path

from selenium import webdriver

options = webdriver.ChromeOptions()
options.binary_location = shutil.which("chromium")
for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server"):
    options.add_argument(argument)
service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

with webdriver.Chrome(options=options, service=service) as driver:
    # A document of the same origin that has no script of its own.
    driver.get(f"{sys.argv[1]}/health")
    driver.execute_script(
        """window.printed = [];
        console.log = (...values) => printed.push(values.join(" "));
        onerror = (message) => console.log(message);
        onunhandledrejection = ({ reason }) => console.log(String(reason));
        const script = document.createElement("script");
        script.textContent = arguments[0];
        document.head.append(script);""",
        Path(sys.argv[2]).read_text(),
    )
    while True:
        for line in driver.execute_script("return printed.splice(0);"):
            print(line, flush=True)
        time.sleep(0.1)

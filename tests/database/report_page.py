#!/usr/bin/env python3
"""Opens a report in headless Chromium, uses it as a person would, and prints as JSON what there was to see.

  report_page.py PAGE [--size WxH] [--dark] [--zone ZONE] [--screenshot FILE] [--whole-page] [--do ACTION]...

ACTION is `click SELECTOR`, `focus SELECTOR` (of the first that matches) or `key KEY`. With actions, nothing else is done.

Chromium is spoken to through a pipe (its DevTools protocol): no port is opened. It has a new, empty profile, gone
afterwards. What is printed:

  errors      uncaught exceptions, messages of the console and the log at level warning or worse
  requests    addresses that the page asked for, but the page itself and data: ones
  dialogs     that opened; ready: what the page says it has drawn; theme, notice, text of the page
  canvases    of each chart: pixels drawn and different colours among them
  totals      name: exact figure; tables: for each chart's table, exact figures summed by column
  cells       of the matrix: their sum; overflow: how much wider the page is than the window
  zoomed      the range shown, totals and tables after dragging in the first chart; keys: the same after keys and buttons
  unzoomed    totals after a double click; toggled: theme and canvas colours after the theme's button
  did         after each action: all of this again
Python's standard library only.
"""
import argparse
import base64
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

WAIT_SECONDS = 60
CHROMIUM = [
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
    "--disable-extensions", "--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-pipe",
]

# What a person sees, out of the page.
LOOK = """(() => {
  const exact = (cells) => [...cells].reduce((sum, cell) => sum + Number(cell.dataset.exact ?? 0), 0);
  const result = {ready: document.documentElement.dataset.ready ?? '', theme: document.documentElement.dataset.theme,
    shown: document.getElementById('shown').textContent, range: document.getElementById('range').textContent,
    notice: document.getElementById('notice').hidden ? '' : document.getElementById('notice').textContent,
    canvases: {}, totals: {}, tables: {}, overflow: document.documentElement.scrollWidth - innerWidth,
    scripts: document.scripts.length, images: document.images.length};
  for (const box of document.querySelectorAll('.chart')) {
    const canvas = box.querySelector('canvas');
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', {willReadFrequently: true});
    copy.drawImage(canvas, 0, 0);
    const pixels = new Uint32Array(copy.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
    const colors = {};
    for (const pixel of pixels) colors[pixel] = (colors[pixel] ?? 0) + 1;
    const drawn = pixels.length - (colors[0] ?? 0);
    delete colors[0];
    result.canvases[box.parentElement.id] = {drawn, colors: Object.keys(colors).length, pixels: pixels.length,
      most: Object.entries(colors).sort((a, b) => b[1] - a[1]).slice(0, 3).map(([color]) => color)};
  }
  for (const figure of document.querySelectorAll('.total')) {
    result.totals[figure.dataset.name] = Number(figure.querySelector('.value').dataset.exact ?? NaN);
  }
  for (const id of ['origins', 'destinations', 'ports', 'busiest', 'gateways', 'unanswered', 'services']) {
    const rows = [...document.querySelectorAll(`#${id} tbody tr`)];
    if (rows.length === 0) continue;
    const wide = Math.max(...rows.map((row) => row.children.length));
    result.tables[id] = {rows: rows.length, names: rows.map((row) => row.children[0].textContent),
      first: [...rows[0].children].map((cell) => Number(cell.dataset.exact ?? 0)),
      sums: Array.from({length: wide}, (_, i) => exact(rows.map((row) => row.children[i])))};
  }
  const texts = (selector) => [...document.querySelectorAll(selector)].map((found) => found.textContent);
  result.filters = texts('#filters li span');
  result.pressed = texts('.pick[aria-pressed="true"]');
  result.unfiltered = [...document.querySelectorAll('.card.unfiltered')].filter((card) => card.innerText.includes('of all traffic'))
    .map((card) => card.id);
  result.notes = Object.fromEntries([...document.querySelectorAll('.card')].map((card) => [card.id, card.querySelector('.note')?.textContent]));
  result.hint = document.getElementById('hint').hidden ? '' : document.getElementById('hint').textContent;
  result.focus = document.activeElement?.textContent;
  result.cells = exact(document.querySelectorAll('#pairs td'));
  result.gaps = document.querySelectorAll('#gaps tbody tr').length;
  result.legend = document.querySelector('#bits .legend')?.textContent;
  result.box = document.querySelector('#bits .chart canvas')?.getBoundingClientRect().toJSON();
  return result;
})()"""


class Browser:
    def __init__(self):
        self.profile = tempfile.mkdtemp(prefix="ctacct-chromium.")
        to_browser, self.write = os.pipe()
        self.read, from_browser = os.pipe()

        def pipes():  # DevTools reads descriptor 3 and writes 4.
            for number, descriptor in ((103, to_browser), (104, from_browser)):
                os.dup2(descriptor, number)
            os.dup2(103, 3)
            os.dup2(104, 4)

        self.log = open(self.profile + "/log", "w")
        self.process = subprocess.Popen(
            CHROMIUM + [f"--user-data-dir={self.profile}/profile", "about:blank"], preexec_fn=pipes, close_fds=False,
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True,
            env={**os.environ, "HOME": self.profile, "XDG_CONFIG_HOME": self.profile, "XDG_CACHE_HOME": self.profile})
        os.close(to_browser)
        os.close(from_browser)
        self.buffer = b""
        self.number = 0
        self.session = None
        self.events = []

    def close(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.profile, ignore_errors=True)

    def message(self):
        while b"\0" not in self.buffer:
            chunk = os.read(self.read, 1 << 20)
            if not chunk:
                sys.exit("report_page.py: chromium has ended: " + pathlib.Path(self.profile + "/log").read_text()[-2000:])
            self.buffer += chunk
        text, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(text)

    def call(self, method, **parameters):
        self.number += 1
        request = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            request["sessionId"] = self.session
        os.write(self.write, json.dumps(request).encode() + b"\0")
        while True:
            answer = self.message()
            if answer.get("id") == self.number:
                if "error" in answer:
                    sys.exit(f"report_page.py: {method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def evaluate(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            sys.exit(f"report_page.py: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def settle(self):
        """Until what was asked for is drawn."""
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50))))")

    def mouse(self, kind, x, y, **more):
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, x, y, count=1):
        for number in range(1, count + 1):
            for kind in ("mousePressed", "mouseReleased"):
                self.mouse(kind, x, y, button="left", buttons=1, clickCount=number)

    def drag(self, x, y, to_x):
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
        for step in range(1, 6):
            self.mouse("mouseMoved", x + (to_x - x) * step / 5, y, button="left", buttons=1)
        self.mouse("mouseReleased", to_x, y, button="left", clickCount=1)

    def key(self, key):
        text = "\r" if key == "Enter" else " " if key == "Space" else key if len(key) == 1 else ""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=" " if key == "Space" else key,
                      **({"text": text} if text and kind == "keyDown" else {}))

    def act(self, action):
        kind, _, what = action.partition(" ")
        if kind == "key":
            self.key(what)
        else:
            found = json.dumps(what)
            place = self.evaluate(f"""(() => {{
                const found = document.querySelector({found});
                found?.scrollIntoView({{block: 'center', inline: 'center', behavior: 'instant'}});
                {'found?.focus();' if kind == 'focus' else ''}
                return found?.getBoundingClientRect().toJSON();
            }})()""")
            if not place:
                sys.exit(f"report_page.py: nothing matches {what}")
            if kind == "click":
                self.click(place["left"] + min(place["width"] / 2, 8), place["top"] + place["height"] / 2)
        self.settle()


def problems(events):
    errors, requests, dialogs = [], [], []
    for event in events:
        method, told = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            errors.append(told["exceptionDetails"].get("exception", {}).get("description", told["exceptionDetails"]["text"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            message = " ".join(str(argument.get("value", argument.get("description"))) for argument in told["args"])
            # Debian 13's Dygraphs remarks that it lays out what lies beside a zoomed range, up to the next point with a value.
            if not re.fullmatch(r"\d+ points out of X bounds:.*", message):
                errors.append(message)
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            errors.append(told["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            requests.append(told["request"]["url"])
        elif method == "Page.javascriptDialogOpening":
            dialogs.append(told["message"])
    return errors, requests, dialogs


def main():
    if not shutil.which("chromium"):
        sys.exit("report_page.py: Chromium is not installed (package chromium)")
    parser = argparse.ArgumentParser()
    parser.add_argument("page")
    parser.add_argument("--size", default="1440x900")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--zone", default="UTC")
    parser.add_argument("--screenshot")
    parser.add_argument("--whole-page", action="store_true")
    parser.add_argument("--do", action="append", default=[])
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    address = pathlib.Path(arguments.page).resolve().as_uri()
    signal.signal(signal.SIGALRM, lambda *_: sys.exit("report_page.py: chromium has not answered in time"))
    signal.alarm(WAIT_SECONDS)
    browser = Browser()
    try:
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        browser.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            browser.call(domain + ".enable")
        browser.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        browser.call("Emulation.setTimezoneOverride", timezoneId=arguments.zone)
        browser.call("Emulation.setEmulatedMedia",
                     features=[{"name": "prefers-color-scheme", "value": "dark" if arguments.dark else "light"}])
        failure = browser.call("Page.navigate", url=address).get("errorText")
        if failure:
            sys.exit(f"report_page.py: {address}: {failure}")
        while browser.evaluate("document.readyState") != "complete" or browser.evaluate("location.href") != address:
            time.sleep(0.02)
        browser.settle()
        seen = browser.evaluate(LOOK)
        seen["text"] = browser.evaluate("document.body.innerText")
        if arguments.do:
            seen["did"] = []
            for action in arguments.do:
                browser.act(action)
                seen["did"].append(browser.evaluate(LOOK))
                seen["did"][-1].pop("box", None)
        if arguments.screenshot:
            shot = browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=arguments.whole_page,
                                **({"clip": {"x": 0, "y": 0, "width": width, "scale": 1,
                                             "height": browser.evaluate("document.documentElement.scrollHeight")}}
                                   if arguments.whole_page else {}))
            pathlib.Path(arguments.screenshot).write_bytes(base64.b64decode(shot["data"]))
        box = seen.pop("box", None)
        if box and not arguments.do:
            left, y = box["left"] + 80, box["top"] + 60
            right = box["right"] - 10
            browser.mouse("mouseMoved", (left + right) / 2, y)
            browser.settle()
            seen["hovered"] = browser.evaluate(LOOK)["legend"]
            browser.drag(left + (right - left) * 0.25, y, left + (right - left) * 0.5)
            browser.settle()
            seen["zoomed"] = browser.evaluate(LOOK)
            browser.click((left + right) / 2, y, count=2)
            browser.settle()
            seen["unzoomed"] = browser.evaluate(LOOK)
            browser.evaluate("document.querySelector('#packets .chart').focus()")
            browser.key("+")
            browser.key("ArrowRight")
            browser.settle()
            seen["keys"] = browser.evaluate(LOOK)
            browser.evaluate("document.getElementById('whole').click()")
            # Wherever the focus is: nowhere, on a button, on a table.
            seen["keys_anywhere"] = []
            for focus in ("document.activeElement.blur()", "document.getElementById('theme').focus()",
                          "document.querySelector('#pairs .table').focus()"):
                browser.evaluate(focus)
                browser.key("+")
                browser.settle()
                seen["keys_anywhere"].append(browser.evaluate("document.getElementById('shown').textContent"))
                browser.key("0")
                browser.settle()
        browser.evaluate("document.getElementById('theme').click()")
        browser.settle()
        seen["toggled"] = browser.evaluate(LOOK)
        seen["errors"], requests, seen["dialogs"] = problems(browser.events)
        seen["requests"] = [url for url in requests if url != address and not url.startswith("data:")]
        seen["opened"] = address in requests
        print(json.dumps(seen, indent=1))
    finally:
        browser.close()


if __name__ == "__main__":
    main()

"""A headless Chromium, spoken to through its DevTools protocol over two pipes."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = """
--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-extensions --disable-dev-shm-usage
--hide-scrollbars --remote-debugging-pipe
""".split()

# Chromium reads commands from 3 and writes answers to 4. Set in a program of its own: a function
# that Python runs after a fork is none for a process in which JAX has threads.
PIPES = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Chromium:
    """One page; `events` are all that it reported since it was opened."""

    def __init__(self, folder: Path):
        here, there = os.pipe(), os.pipe()

        ends = [str(here[0]), str(there[1])]
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(
            [sys.executable, "-Sc", PIPES, *ends, *command], pass_fds=(here[0], there[1]), **quiet
        )
        os.close(here[0])
        os.close(there[1])
        self.write, self.read = here[1], there[0]
        self.left, self.sent, self.session = b"", 0, None
        self.events: list[dict] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        answer = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self.session = answer["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def message(self, until: float) -> dict:
        """The next message; raises if there is none in time."""
        while b"\0" not in self.left:
            ready = select.select([self.read], [], [], max(0.0, until - time.monotonic()))[0]
            got = os.read(self.read, 2**20) if ready else b""
            if not got:
                raise TimeoutError("Chromium does not answer")
            self.left += got
        first, self.left = self.left.split(b"\0", 1)
        return json.loads(first)

    def call(self, method: str, **params) -> dict:
        """Asks for something and waits for the answer."""
        self.sent += 1
        body = {"id": self.sent, "method": method, "params": params}
        if self.session:
            body["sessionId"] = self.session
        os.write(self.write, json.dumps(body).encode() + b"\0")
        until = time.monotonic() + 60
        while True:
            found = self.message(until)
            if found.get("id") == self.sent:
                assert "error" not in found, found
                return found["result"]
            self.events.append(found)

    def open(self, page: Path, wide: int, high: int = 900, dark: bool = False) -> None:
        """Loads a page from disk into a window of this size."""
        self.events.clear()
        size = {"width": wide, "height": high, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.resolve().as_uri())
        until = time.monotonic() + 60
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self.message(until))

    def run(self, script: str) -> Any:
        """The JSON value of an expression in the page."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        code = {"Enter": 13, "Escape": 27, "Tab": 9}[key]
        common: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def picture(self, path: Path, whole: bool = True) -> bytes:
        """A screenshot, as PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        data = base64.b64decode(found["data"])
        path.write_bytes(data)
        return data

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, and exceptions."""
        bad = []
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                bad.append(params["exceptionDetails"]["text"])
            elif method == "Runtime.consoleAPICalled":
                bad.append(str(params["args"]))
            elif method == "Log.entryAdded":
                bad.append(params["entry"]["text"])
        return bad

    def requests(self) -> list[str]:
        """What it loaded, the page itself and data inside it aside."""
        urls = [
            e["params"]["request"]["url"]
            for e in self.events
            if e.get("method") == "Network.requestWillBeSent"
        ]
        return [u for u in urls[1:] if not u.startswith("data:")]

    def close(self) -> None:
        try:
            self.session = None
            self.call("Browser.close")
            self.process.wait(20)
        except (OSError, TimeoutError, AssertionError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self.write)
        os.close(self.read)

"""A headless Chromium that tests drive as a person would: through chromedriver, with the W3C's WebDriver calls."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

INSTALLED = bool(shutil.which("chromium") and shutil.which("chromedriver"))
needs_browser = pytest.mark.skipif(not INSTALLED, reason="chromium and chromedriver are not installed")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-dev-shm-usage")  # fmt: skip


class Browser:
    """One window."""

    def __init__(self, address: str, folder: Path, *, javascript: bool) -> None:
        self._address = address
        options: dict[str, Any] = {"args": [*FLAGS, f"--user-data-dir={folder}", "--window-size=1200,900"]}
        if not javascript:
            options["prefs"] = {"profile.managed_default_content_settings.javascript": 2}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self._session = ""
        self._session = (
            "/session/" + self._call("/session", capabilities={"alwaysMatch": wanted})["sessionId"]
        )

    def open(self, address: str) -> None:
        self._call("/url", url=address)

    def run(self, script: str) -> Any:
        """What the JavaScript returns."""
        return self._call("/execute/sync", script=script, args=[])

    def texts(self, selector: str) -> list[str]:
        """The text of each element, as a reader sees it."""
        found = self._call("/elements", using="css selector", value=selector)
        return [self._get(f"/element/{next(iter(one.values()))}/text") for one in found]

    def click(self, selector: str, place: int = 0) -> None:
        found = self._call("/elements", using="css selector", value=selector)
        self._call(f"/element/{next(iter(found[place].values()))}/click")

    def resize(self, width: int) -> None:
        self._call("/window/rect", width=width, height=900)

    def complaints(self) -> list[str]:
        """What the page's console says since the last call."""
        return [entry["message"] for entry in self._call("/se/log", type="browser")]

    def close(self) -> None:
        request = urllib.request.Request(self._address + self._session, method="DELETE")
        urllib.request.urlopen(request, timeout=60).close()

    def _call(self, path: str, **body: Any) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(self._address + self._session + path, data)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self._address + self._session + path, timeout=120) as answer:
            return json.load(answer)["value"]


@contextmanager
def browser(folder: Path, *, javascript: bool = True) -> Iterator[Browser]:
    """A browser with a profile of its own in `folder`; ended on leaving."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL)
    try:
        _wait_for(address)
        window = Browser(address, folder, javascript=javascript)
        try:
            yield window
        finally:
            window.close()
    finally:
        driver.terminate()
        driver.wait()


def _wait_for(address: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{address}/status", timeout=10).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise TimeoutError("chromedriver does not answer")

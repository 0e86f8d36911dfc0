"""A headless Chromium, driven by plain WebDriver requests to chromedriver (https://www.w3.org/TR/webdriver2/)."""

import base64
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


class Browser:
    """A session of chromedriver."""

    def __init__(self, port: int, profile: Path) -> None:
        self.address = f"http://127.0.0.1:{port}/session"
        options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        logs = {"browser": "ALL", "performance": "ALL"}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logs}
        self.address += f"/{self.ask('', {'capabilities': {'alwaysMatch': wanted}})['sessionId']}"

    def ask(self, place: str, body: Any = None, method: str = "POST") -> Any:
        """Send a request of the session; what it answers."""
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(
            self.address + place, data, {"Content-Type": "application/json"}, method=method
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path, width: int, height: int = 900) -> None:
        """Open a page as on a screen of this size, in CSS pixels, narrower than any window may be."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", screen)
        self.ask("/url", {"url": page.as_uri()})

    def command(self, name: str, settings: dict[str, Any]) -> Any:
        """A command of the DevTools, through chromedriver."""
        return self.ask("/goog/cdp/execute", {"cmd": name, "params": settings})

    def run(self, script: str) -> Any:
        """Run the body of a function; what it returns, or what its promise comes to."""
        return self.ask("/execute/sync", {"script": script, "args": []})

    def errors(self) -> list[str]:
        """What the console has been told since the last time."""
        return [entry["message"] for entry in self.ask("/se/log", {"type": "browser"})]

    def requested(self) -> list[str]:
        """Addresses of all requests of pages in files since the last time, those of the pages included."""
        messages = [json.loads(entry["message"])["message"] for entry in self.ask("/se/log", {"type": "performance"})]
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        return [entry["request"]["url"] for entry in sent if entry["documentURL"].startswith("file:")]

    def picture(self, file: Path, *, whole: bool = True) -> None:
        """Write a screenshot, of the whole page or of what the window shows."""
        settings = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            size = self.command("Page.getLayoutMetrics", {})["cssContentSize"]
            settings["clip"] = {**size, "scale": 1}
        file.write_bytes(base64.b64decode(self.command("Page.captureScreenshot", settings)["data"]))


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser with a fresh profile."""
    assert DRIVER
    driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert driver.stdout
        lines = iter(driver.stdout.readline, "")
        port = next(int(found[1]) for line in lines if (found := re.search(r"successfully on port (\d+)", line)))
        browser = Browser(port, profile)
        try:
            yield browser
        finally:
            browser.ask("", method="DELETE")
    finally:
        driver.terminate()
        driver.wait(timeout=10)

"""A real headless Chromium for tests: what it logged, what it asked for, what it shows.

Its profile, home and temporary files are a folder of its own, names resolve to this machine only,
and closing it ends the processes that it started and no others.
"""

import base64
import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

REQUIRE = ("CI", "PWMRAY_REQUIRE_BROWSER")  # where one of them is set, no browser is a failure
DESKTOP, PHONE = (1280, 900), (390, 844)  # CSS pixels
_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # the tests may run as root
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "data:,",  # in place of the new tab's page, which asks for things
)
_BOX = """
const {x, y, width, height} = arguments[0].getBoundingClientRect();
return {x: x + scrollX, y: y + scrollY, width, height};
"""
_END_SECONDS = 10.0  # for its processes to end by themselves


class Request(NamedTuple):
    """Something that a page asked for; `failure` is empty where it came."""

    url: str
    failure: str


class Browser:
    """A browser with one window; `driver` is selenium's."""

    def __init__(self, driver: Any):
        self.driver = driver
        self._messages: list[dict[str, Any]] = []
        self._logged: list[dict[str, Any]] = []

    def open(self, address: str, size: tuple[int, int] = DESKTOP) -> None:
        """Go to a page in a window of `size`, and forget what was logged before."""
        self.resize(size)
        self._command("Emulation.setEmulatedMedia", media="screen")
        self._collect()
        self._messages, self._logged = [], []
        self.driver.get(address)

    def resize(self, size: tuple[int, int]) -> None:
        """Give the page's inside a width and height, as a phone's where it is that narrow."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1}
        self._command("Emulation.setDeviceMetricsOverride", mobile=width <= PHONE[0], **metrics)

    def emulate_print(self) -> None:
        """Show the page as it would be printed."""
        self._command("Emulation.setEmulatedMedia", media="print")

    def print_pdf(self) -> bytes:
        """Return the page printed on A4."""
        paper = {"paperWidth": 8.27, "paperHeight": 11.69}
        return base64.b64decode(self._command("Page.printToPDF", **paper)["data"])

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what JavaScript in the page returns."""
        return self.driver.execute_script(script, *arguments)

    def errors(self) -> list[str]:
        """Return what the console got as errors since the page was opened."""
        self._collect()
        return [entry["message"] for entry in self._logged if entry["level"] == "SEVERE"]

    def requests(self) -> list[Request]:
        """Return what the page asked a network for since it was opened."""
        self._collect()
        urls: dict[str, str] = {}
        failures: dict[str, str] = {}
        for message in self._messages:
            _note(message["method"], message["params"], urls, failures)
        return [
            Request(url, failures.get(key, ""))
            for key, url in urls.items()
            if not url.startswith(("data:", "blob:", "chrome:", "file:"))
        ]

    def screenshot(self, path: Path, element: Any) -> Path:
        """Write an element, whether in sight or not, as a PNG."""
        box = "const box = arguments[0].getBoundingClientRect();"
        box += (
            "return {x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height}"
        )
        clip = {**self.run(box, element), "scale": 1}
        picture = self._command("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(picture["data"]))
        return path

    def wait_for(self, xpath: str, seconds: float = 60.0) -> Any:
        """Return the first element at an XPath, as soon as there is one."""
        from selenium.webdriver.support.wait import WebDriverWait

        wait = WebDriverWait(self.driver, seconds)
        return wait.until(lambda driver: driver.find_element("xpath", xpath), xpath)

    def _command(self, name: str, **parameters: Any) -> dict[str, Any]:
        return self.driver.execute_cdp_cmd(name, parameters)

    def _collect(self) -> None:
        self._logged += self.driver.get_log("browser")
        entries = self.driver.get_log("performance")
        self._messages += [json.loads(entry["message"])["message"] for entry in entries]


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Start a browser, and end it and what it left.

    Where there is none the test is skipped with a warning, or fails if the environment has REQUIRE.
    """
    chromium, chromedriver = _find("chromium"), _find("chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    home = tempfile.mkdtemp(prefix="pwmray-browser-")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (f"--user-data-dir={home}/profile", *_ARGUMENTS):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = Service(chromedriver, env={**os.environ, "HOME": home, "TMPDIR": home})
    try:
        driver = webdriver.Chrome(options=options, service=service)
        try:
            yield Browser(driver)
        finally:
            driver.quit()
    finally:
        _end_those_of(home)
        shutil.rmtree(home, ignore_errors=True)


def _find(program: str) -> str:
    path = shutil.which(program)
    if path is not None:
        return path
    told = f"no {program} on this machine: nothing is looked at in a real browser"
    if any(os.environ.get(name) for name in REQUIRE):
        pytest.fail(told)
    warnings.warn(told, stacklevel=2)  # a skipped test alone is easily overlooked
    pytest.skip(told)


def _note(name: str, about: dict[str, Any], urls: dict[str, str], failures: dict[str, str]) -> None:
    """Sort one message of the browser's network log into what was asked for and what failed."""
    key = about.get("requestId", "")
    if name == "Network.requestWillBeSent":
        urls[key] = about["request"]["url"]
    elif name == "Network.webSocketCreated":
        urls[key] = about["url"]
    elif name == "Network.loadingFailed":
        failures[key] = about["errorText"]
    elif name == "Network.responseReceived" and about["response"]["status"] >= 400:
        failures[key] = f"status {about['response']['status']}"


def _end_those_of(home: str) -> None:
    """Kill what is left of the processes that were started with `home` in their environment."""
    deadline = time.monotonic() + _END_SECONDS
    while _processes_of(home) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in _processes_of(home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _processes_of(home: str) -> list[int]:
    mark, found = f"HOME={home}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or it is another user's
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found

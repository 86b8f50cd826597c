"""A headless Chromium that says what went wrong on a page, and which requests it made."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MISSING = ""
try:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
except ImportError:
    MISSING = "selenium is not installed: pip install selenium"

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
if not MISSING and not (CHROMIUM and DRIVER):
    MISSING = "there is no Chromium with its driver: apt-get install chromium chromium-driver"


class Browser:
    """One page at a time.

    Args:
        width: Of the window, pixels.
        height: Of the window, pixels.
    """

    def __init__(self, width: int = 1280, height: int = 900) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        # In a container Chromium runs as root and has a small /dev/shm.
        for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
            options.add_argument(word)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.resize(width, height)

    def resize(self, width: int, height: int) -> None:
        """Give the page's viewport a size; a window cannot be as narrow as a phone."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """Prefer ``light`` or ``dark``."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    @contextmanager
    def without_scripts(self) -> Iterator[None]:
        """Run no script of the pages that are opened meanwhile."""
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})

    @contextmanager
    def on_paper(self) -> Iterator[None]:
        """Show the page as it prints."""
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        self.js("dispatchEvent(new Event('beforeprint'))")
        try:
            yield
        finally:
            self.js("dispatchEvent(new Event('afterprint'))")
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})

    def open(self, path: Path, seconds: float = 60) -> None:
        """Open a file, and wait until it has drawn, or has said that it cannot."""
        self.driver.get_log("browser"), self.driver.get_log("performance")
        self.driver.get(path.absolute().as_uri())
        drawn = "return !!document.documentElement.dataset.drawn || !!document.querySelector('.nocharts')"
        if not self.until(lambda: self.js(drawn), seconds):
            raise TimeoutError(f"{path} was not drawn: {self.errors()}")

    def until(self, true: Callable[[], object], seconds: float = 10) -> bool:
        """Wait until something is true, and say whether it came to that."""
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                return False
            time.sleep(0.03)
        return True

    def js(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def find(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def click(self, selector: str) -> None:
        """Click at an element as a mouse does, once it is in view."""
        (element,) = self.find(selector)
        self.js("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        element.click()

    def text(self, selector: str) -> str:
        return self.js("return document.querySelector(arguments[0]).textContent", selector)

    def hover(self, selector: str, share: float) -> None:
        """Move the mouse to a place that is so large a share of an element's width from its left."""
        box = self.js(
            "const e = document.querySelector(arguments[0]); e.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const b = e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]",
            selector,
        )
        place = {"x": box[0] + share * box[2], "y": box[1] + box[3] / 2}
        for offset in (-2, 0):
            event = {"type": "mouseMoved", **place, "x": place["x"] + offset}
            self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)
        time.sleep(0.1)

    def drag(self, selector: str, start: float, end: float) -> None:
        """Drag the mouse from one share of an element's width to another."""
        self.hover(selector, start)
        box = self.js("const b = document.querySelector(arguments[0]).getBoundingClientRect();"
                      "return [b.x, b.y, b.width, b.height]", selector)  # fmt: skip
        y = box[1] + box[3] / 2
        steps = [("mousePressed", start, 1), ("mouseMoved", (start + end) / 2, 1), ("mouseMoved", end, 1)]
        for kind, share, buttons in [*steps, ("mouseReleased", end, 0)]:
            event = {"type": kind, "x": box[0] + share * box[2], "y": y, "button": "left", "buttons": buttons}
            self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {**event, "clickCount": 1})
        time.sleep(0.1)

    def errors(self) -> list[str]:
        """Return what the console was told since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> list[str]:
        """Return the addresses that were asked for, the page itself and what is within it left out."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return [url for url in found if not url.startswith(("data:", "blob:", "file:"))]

    def picture(self, path: Path, whole: bool = True) -> None:
        """Save what the page looks like."""
        import base64

        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": whole})
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self.driver.quit()

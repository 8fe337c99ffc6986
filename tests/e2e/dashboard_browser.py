"""The dashboard in a real browser: headless Chromium, driven by Selenium, with axe-core for accessibility."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = "" if CHROMIUM and DRIVER else "needs Debian's packages chromium and chromium-driver"
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars")
_PATIENCE = 30.0  # seconds
_BAD = frozenset({"serious", "critical"})


class Browser:
    """A browser with a page of the dashboard."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str, *, width: int = 1280, height: int = 900, theme: str = "light") -> None:
        """Open a page in a window of this size, on a system with this theme."""
        self.resize(width, height)
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get(url)
        self.wait_for(lambda: self.driver.execute_script("return window.did_handshake === true"))

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def text(self) -> str:
        """Return all text of the page that is visible."""
        return self.driver.find_element(By.TAG_NAME, "body").text

    def wait_for(self, condition: Callable[[], Any], what: str = "") -> Any:
        """Return the first true value of a condition."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            try:
                if found := condition():
                    return found
            except (StaleElementReferenceException, LookupError):
                continue
            time.sleep(0.05)
        message = f"the page did not show {what or 'it'}: {self.text()[:2000]}"
        raise AssertionError(message)

    def wait_for_text(self, *texts: str) -> None:
        for text in texts:
            self.wait_for(partial(self._shows, text), repr(text))

    def _shows(self, text: str) -> bool:
        return text in self.text()

    def button(self, label: str) -> WebElement:
        """Return the visible button with this label, perhaps with a count. Raises LookupError."""
        path = f"//button[normalize-space(.)='{label}' or starts-with(normalize-space(.), '{label} (')]"
        for element in self.driver.find_elements(By.XPATH, path):
            if element.is_displayed():
                return element
        raise LookupError(label)

    def press(self, label: str) -> None:
        """Press a button by the keyboard: focus it, and send Enter."""

        def pressed() -> bool:
            button = self.button(label)
            self.driver.execute_script("arguments[0].focus()", button)
            button.send_keys("\n")
            return True

        self.wait_for(pressed, f"the button {label!r}")

    def click(self, selector: str, place: int = 0) -> None:
        """Click on an element by its CSS selector."""

        def clicked() -> bool:
            self.driver.find_elements(By.CSS_SELECTOR, selector)[place].click()
            return True

        self.wait_for(clicked, selector)

    def fill(self, field: str, value: str) -> None:
        """Type into a field of the form."""
        element = self.wait_for(lambda: self.driver.find_elements(By.ID, f"field-{field}"), field)[0]
        element.clear()
        element.send_keys(value)

    def violations(self) -> list[str]:
        """Return what axe-core finds that is serious or critical."""
        spec = find_spec("axe_playwright_python")
        assert spec is not None, "make test installs axe-playwright-python"
        assert spec.origin is not None
        script = (Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8")
        self.driver.execute_script(script)
        found = self.driver.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
        return [
            f"{one['impact']} {one['id']}: {[node['target'] for node in one['nodes']][:3]}"
            for one in found["violations"]
            if one["impact"] in _BAD
        ]

    def complaints(self) -> list[str]:
        """Return the warnings and errors of the browser's console since the last call."""
        return [line["message"] for line in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def hosts(self) -> set[str]:
        """Return the hosts to which the page sent requests since the last call."""
        found = set()
        for line in self.driver.get_log("performance"):  # type: ignore[no-untyped-call]
            event = json.loads(line["message"])["message"]
            if event["method"] == "Network.requestWillBeSent":
                url = urlsplit(event["params"]["request"]["url"])
                if url.scheme not in {"data", "blob"}:
                    found.add(url.netloc)
            if event["method"] == "Network.webSocketCreated":
                found.add(urlsplit(event["params"]["url"]).netloc)
        return found

    def runs_a_script(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        return self.driver.execute_script(f"return {expression}")

    def is_wide_enough(self) -> bool:
        """Whether the page fits into the window without being moved sideways."""
        return bool(self.driver.execute_script("return document.documentElement.scrollWidth <= innerWidth"))


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser, and end it with its driver."""
    assert CHROMIUM
    assert DRIVER
    options = Options()
    for flag in _FLAGS:
        options.add_argument(flag)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # Chromium leaves its temporary folders behind when it is killed.
    with TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as folder:
        service = Service(DRIVER, env={**os.environ, "TMPDIR": folder})
        driver = webdriver.Chrome(options=options, service=service)
        try:
            driver.set_script_timeout(60)
            yield Browser(driver)
        finally:
            try:
                driver.quit()
            except WebDriverException:  # the browser is gone already
                driver.service.stop()

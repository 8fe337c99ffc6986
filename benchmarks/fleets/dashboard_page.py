"""The page of the dashboard over a large fleet, in a separate process; and a browser that opens it.

    python -m benchmarks.fleets.dashboard_page --devices 10000 --rounds 500

serves the page, for ``benchmarks.dashboard``, which reads its address and the memory of the tables from its
output.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import psutil

from benchmarks.fleets.dashboard_fleet import OUTPUTS, RUN, OpenRoundFeed, clients_in_memory, write_fleet
from fedgrass.console.dashboard.fleet_state import FleetState

MISSING = ", ".join(
    [
        *(name for name in ("chromium", "chromedriver") if not shutil.which(name)),
        *(name for name in ("nicegui", "selenium") if find_spec(name) is None),
    ]
)
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu")
_START_SECONDS, _OPEN_SECONDS = 60.0, 30.0
_PAINT = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
_POLL_SECONDS = 0.02
_PLAIN_PAGE = "data:text/html,<p>word</p>"


def serve_page(devices: int, rounds: int, seconds: float) -> None:
    """Serve the page until the process is interrupted; the devices' messages take ``seconds``."""
    from fedgrass.console.dashboard.page_server import serve  # noqa: PLC0415 - an extra
    from fedgrass.console.dashboard.pages.page_actions import Actions  # noqa: PLC0415 - as above
    from fedgrass.console.dashboard.pages.page_sources import ShownStack  # noqa: PLC0415 - as above

    before = psutil.Process().memory_info().rss
    clients = clients_in_memory()
    write_fleet(clients("dynamodb"), OUTPUTS, devices, rounds)
    feed = OpenRoundFeed(OUTPUTS["Fleet"], devices, rounds, seconds)
    print(f"tables {psutil.Process().memory_info().rss - before}", flush=True)
    state = FleetState("large", clients, OUTPUTS, feed, region="memory")

    nobody: Any = None  # the page is read-only
    shown = ShownStack("large", state, Actions(nobody, nobody, read_only=True))
    serve([shown], host="127.0.0.1", port=0, read_only=True)


def measure_page(devices: int, rounds: int, *, opens: int, warm_seconds: float) -> dict[str, float]:
    """Open the page in a browser; return the seconds until it paints and shows the run, and the memory.

    Args:
        devices: of the fleet, all of which are at work in the open round.
        rounds: of the run.
        opens: how often the page is opened; the times are medians.
        warm_seconds: that the dashboard runs before.
    """
    with _served(devices, rounds, 2 * warm_seconds) as (url, tables, process):
        time.sleep(warm_seconds)
        paints, shown, plain = zip(*[_open(url) for _ in range(opens)], strict=True)
        memory = process.memory_info().rss - tables
    return {
        "first_paint_seconds": round(statistics.median(paints), 2),
        "plain_paint_seconds": round(statistics.median(plain), 2),
        "run_shown_seconds": round(statistics.median(shown), 2),
        "memory_mb": round(memory / 1e6),
    }


@contextmanager
def _served(devices: int, rounds: int, seconds: float) -> Iterator[tuple[str, int, psutil.Process]]:
    """Serve the page in a process; yield its address, the memory of its tables in bytes, and the process."""
    words = [sys.executable, "-m", __spec__.name if __spec__ else "benchmarks.fleets.dashboard_page"]
    words += ["--devices", str(devices), "--rounds", str(rounds), "--seconds", str(seconds)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            tables, ends_at = 0, time.monotonic() + _START_SECONDS
            for line in server.stdout or ():
                first, _, rest = line.strip().partition(" ")
                if first == "tables":
                    tables = int(rest)
                elif "http://" in rest:
                    yield rest[rest.index("http://") :], tables, psutil.Process(server.pid)
                    return
                if time.monotonic() > ends_at:
                    break
            message = "the dashboard has not started"
            raise RuntimeError(message)
        finally:
            server.terminate()
            server.wait(_START_SECONDS)


def _open(url: str) -> tuple[float, float, float]:
    """Open the page in a fresh browser.

    Returns:
        The seconds until its first paint, until it shows the run, and until a page of one word is painted,
        which shows how busy the machine is.
    """
    from selenium import webdriver  # noqa: PLC0415 - only where it is installed
    from selenium.webdriver.chrome.options import Options  # noqa: PLC0415 - as above
    from selenium.webdriver.chrome.service import Service  # noqa: PLC0415 - as above

    options = Options()
    for flag in _FLAGS:
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or ""
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        begin = time.monotonic()
        driver.get(url)
        while RUN not in driver.execute_script("return document.body.innerText"):
            if time.monotonic() - begin > _OPEN_SECONDS:
                message = f"the page does not show the run {RUN}"
                raise RuntimeError(message)
            time.sleep(_POLL_SECONDS)
        shown = time.monotonic() - begin
        paint = _paint(driver)
        driver.get(_PLAIN_PAGE)
        return paint, shown, _paint(driver)
    finally:
        driver.quit()


def _paint(driver: Any) -> float:
    ends_at = time.monotonic() + _OPEN_SECONDS
    while (milliseconds := driver.execute_script(_PAINT)) is None:
        if time.monotonic() > ends_at:
            message = "the browser does not report its first paint"
            raise RuntimeError(message)
        time.sleep(_POLL_SECONDS)
    return float(milliseconds) / 1000


def main() -> None:
    """Serve the page until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=60.0, help="over which the devices' messages come")
    options = parser.parse_args()
    serve_page(options.devices, options.rounds, options.seconds)


if __name__ == "__main__":
    main()

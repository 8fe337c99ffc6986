"""Write the pictures of docs/dashboard.md: the page over a fleet of the tests, in headless Chromium.

python docs/write_dashboard_pictures.py one    # the first screen, the devices, the phone
python docs/write_dashboard_pictures.py two    # two stacks: NiceGUI has one page per process
"""

import io
import sys
import threading
import time
from pathlib import Path

import msgspec
from PIL import Image
from selenium.webdriver.common.by import By

from fedgrass.console.dashboard.fleet_views import CellState
from fedgrass.console.dashboard.page_security import Admission, local_names
from fedgrass.console.dashboard.page_server import listen, page_server
from fedgrass.console.dashboard.pages.page_actions import Actions
from fedgrass.console.dashboard.pages.page_sources import ShownStack
from tests.e2e.dashboard_browser import Browser, browser
from tests.fakes import fleet_source
from tests.fakes.fleet_source import FakeFleet, FakeOperator

FOLDER = Path(__file__).parent / "pictures"
ROUNDS = 14
COLOURS = 64  # of a picture: small files


def stack(name: str, devices: int, lost: tuple[CellState, ...]) -> ShownStack:
    """Return a stack with a run in its last round; ``lost`` are the states of devices that stay lost."""
    fleet, operator = FakeFleet(devices, ROUNDS, name=name), FakeOperator()
    fleet.line = msgspec.structs.replace(fleet.line, rounds=20)
    good = {"state": CellState.REPLIED, "reason": "", "turnaround_seconds": 4.0}
    keeps = (*lost, CellState.TRAINING, CellState.UPLOADING, CellState.REPLIED)
    fleet.cells = tuple(
        cell if cell.state in keeps else msgspec.structs.replace(cell, **good) for cell in fleet.cells
    )
    return ShownStack(name, fleet, Actions(lambda: operator, operator))


def write(page: Browser, name: str) -> None:
    """Write what the window shows."""
    page.wait_for(lambda: page.driver.find_elements(By.TAG_NAME, "main"))
    time.sleep(1.5)  # for the chart, which is drawn after the page
    picture = Image.open(io.BytesIO(page.driver.get_screenshot_as_png()))
    picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=COLOURS).save(FOLDER / name, optimize=True)


def draw(page: Browser, url: str, which: str) -> None:
    """Write the pictures of one stack, or of two."""
    if which == "two":
        page.open(url, width=1200, height=760, theme="dark")
        write(page, "dashboard_stacks.png")
        return
    page.open(url, width=1200, height=1060)
    write(page, "dashboard.png")
    page.press("Devices")
    page.press("device-00003")
    page.wait_for_text("Its last rounds")
    write(page, "dashboard_devices.png")
    page.open(url, width=390, height=844, theme="dark")
    write(page, "dashboard_phone.png")


def main(which: str) -> None:
    """Serve the page, and draw it."""
    fleet_source.START = round(time.time() * 1000) - ROUNDS * 60_000 - 22_000
    fleet_source.HOSTILE = "no space left on device"
    stacks = [stack("greenhouse", 24, (CellState.FAILED, CellState.DECLINED)), stack("orchard", 12, ())]
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    admission = Admission(local_names("127.0.0.1", port), "fedgrass_pictures")
    server = page_server(stacks if which == "two" else stacks[:1], admission, read_only=False)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        with browser() as page:
            draw(page, f"http://127.0.0.1:{port}/", which)
    finally:
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1])

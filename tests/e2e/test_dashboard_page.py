"""The dashboard in headless Chromium, over a fleet in memory: what it shows, does and must never do."""

import http.client
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import pytest
from nicegui import app
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from fedgrass.console.dashboard.fleet_views import CellState
from fedgrass.console.dashboard.page_security import Admission, local_names
from fedgrass.console.dashboard.page_server import listen, page_server
from fedgrass.console.dashboard.pages.page_actions import Actions
from fedgrass.console.dashboard.pages.page_sources import ShownStack
from tests.e2e.dashboard_browser import MISSING, Browser, browser
from tests.fakes.fleet_source import FakeFleet, FakeOperator, closed_round

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]
ERRORS: list[Exception] = []  # of the page's handlers, which NiceGUI only logs
VIEWS = ("Overview", "Devices", "Models", "Alarms")


class Served(NamedTuple):
    """The page of two stacks: one to act on, one whose actions the server refuses."""

    url: str
    fleet: FakeFleet
    operator: FakeOperator
    guarded: FakeOperator


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    fleet, operator = FakeFleet(name="farm"), FakeOperator()
    other, guarded = FakeFleet(devices=10_000, rounds=20, name="big"), FakeOperator()
    stacks = [
        ShownStack("farm", fleet, Actions(lambda: operator, operator)),
        ShownStack("big", other, Actions(lambda: guarded, guarded, read_only=True)),
    ]
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    app.on_exception(ERRORS.append)
    server = page_server(stacks, Admission(local_names("127.0.0.1", port), "fedgrass_test"), read_only=False)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield Served(f"http://127.0.0.1:{port}/", fleet, operator, guarded)
    server.should_exit = True
    thread.join(15)
    listening.close()
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def started() -> Iterator[Browser]:
    with browser() as made:
        yield made


@pytest.fixture
def page(started: Browser, served: Served) -> Iterator[Browser]:
    """The page, freshly opened; afterwards, what must hold after every test."""
    started.complaints()
    started.hosts()
    ERRORS.clear()
    started.open(served.url)
    yield started
    assert ERRORS == []
    assert started.complaints() == []
    assert started.hosts() <= {served.url.split("/")[2]}
    assert started.runs_a_script("window.hacked === undefined")


def test_the_first_screen_answers_the_three_questions(page: Browser) -> None:
    page.wait_for_text("Does it learn?", "Learning", "accuracy 87.8%")
    page.wait_for_text("What holds it back?", "1 failed", "device-00003: out of memory", "1 slow")
    page.wait_for_text("What does it cost?", "$0.0042 so far")


def test_a_device_that_moves_on_is_pushed_to_the_page(page: Browser, served: Served) -> None:
    page.wait_for_text("training 40 %")
    served.fleet.set_cell(4, progress=0.9)
    page.wait_for_text("training 90 %")
    served.fleet.set_cell(4, state=CellState.LATE)
    page.wait_for_text("1 late")
    served.fleet.set_cell(4, state=CellState.TRAINING, progress=0.4)
    page.wait_for_text("training 40 %")


def test_the_curves_grow_with_the_rounds(page: Browser, served: Served) -> None:
    def drawn() -> int:
        return int(page.runs_a_script("document.querySelectorAll('.chart svg path').length"))

    before = page.wait_for(drawn, "curves")
    count = len(served.fleet.rounds)
    served.fleet.rounds = (*served.fleet.rounds, closed_round(count + 1, 12))
    assert served.fleet.open_round
    served.fleet.open_round = msgspec.structs.replace(served.fleet.open_round, number=count + 2)
    served.fleet.change()
    page.wait_for(lambda: drawn() > before, "a longer curve")
    page.wait_for_text(f"round {count + 2}, open")


@pytest.mark.parametrize("action", ["Pause", "Next round", "Retry", "Cancel run"])
def test_an_action_is_done_after_a_confirmation_by_keyboard(
    page: Browser, served: Served, action: str
) -> None:
    name = action.partition(" ")[0].lower()
    served.operator.done.clear()
    page.press(f"{action}…")
    page.wait_for_text("Keep as it is")
    page.press("Keep as it is")
    page.wait_for(lambda: "Keep as it is" not in page.text())
    assert served.operator.done == []
    page.press(f"{action}…")
    page.wait_for_text("Keep as it is")
    page.press(action)
    page.wait_for_text(f"{action}: done for digits-7.")
    assert served.operator.done == [(name, "digits-7")]
    assert served.fleet.refreshed


def test_a_paused_run_is_resumed(page: Browser, served: Served) -> None:
    served.fleet.line = msgspec.structs.replace(served.fleet.line, state="PAUSED")
    served.fleet.change()
    page.press("Resume…")
    page.wait_for_text("Keep as it is")
    page.press("Resume")
    page.wait_for_text("Resume: done for digits-7.")
    served.fleet.line = msgspec.structs.replace(served.fleet.line, state="RUNNING")
    served.fleet.change()


def test_escape_closes_a_dialog_and_nothing_is_done(page: Browser, served: Served) -> None:
    served.operator.done.clear()
    page.press("Cancel run…")
    page.wait_for_text("This cannot be undone.")
    page.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    page.wait_for(lambda: "This cannot be undone." not in page.text())
    assert served.operator.done == []


def test_what_the_initiator_refuses_is_shown_as_a_text(page: Browser, served: Served) -> None:
    served.operator.refused = {"pause": "<b id='bold'>it is PAUSED</b>"}
    page.press("Pause…")
    page.wait_for_text("Keep as it is")
    page.press("Pause")
    page.wait_for_text("Refused: <b id='bold'>it is PAUSED</b>")
    assert page.driver.find_elements(By.ID, "bold") == []
    served.operator.refused = {}


def test_a_run_is_started_from_the_form_of_its_settings(page: Browser, served: Served) -> None:
    served.operator.done.clear()
    page.press("Start a run…")
    page.wait_for_text("Name of the run")
    page.fill("run_name", "digits-8")
    page.fill("task", "digits")
    page.fill("rounds", "none")
    page.press("Start the run")
    page.wait_for_text("rounds is 'none': it takes a whole number")
    page.fill("rounds", "3")
    page.fill("continue_from", "digits-7/2")
    assert page.violations() == []
    page.press("Start the run")
    page.wait_for_text("Started digits-8.")
    assert served.operator.done == [("start", "digits-8")]
    assert served.operator.settings == {
        "settings": {"task": "digits", "rounds": 3},
        "continue_from": {"run": "digits-7", "round": 2},
    }


def test_a_device_shows_its_attributes_and_rounds_and_is_forgotten(page: Browser, served: Served) -> None:
    page.press("Devices")
    page.wait_for_text("12 devices, page 1 of 1", "1 problem")
    page.press("device-00003")
    page.wait_for_text("battery", "Its last rounds", "digits-7/3", "onerror")
    assert page.violations() == []
    page.press("Forget…")
    page.wait_for_text("Keep as it is")
    page.press("Forget the device")
    page.wait_for_text("device-00003 is forgotten.")
    assert served.operator.done[-1] == ("forget", "device-00003")


def test_devices_are_filtered(page: Browser) -> None:
    page.press("Devices")
    page.wait_for_text("12 devices")
    page.driver.find_element(By.CSS_SELECTOR, "input[aria-label='Part of a name']").send_keys("0001")
    page.wait_for_text("3 devices, page 1 of 1")


def test_the_aliases_of_a_stack_are_listed_with_what_they_name(page: Browser) -> None:
    page.press("Models")
    page.wait_for_text("times moved")
    rows = page.driver.find_element(By.CSS_SELECTOR, "section[aria-label='Aliases'] tbody").text
    assert rows.split() == ["production", "digits", "digits-7/3", "2"]


def test_a_model_is_promoted_and_rolled_back(page: Browser, served: Served) -> None:
    page.press("Models")
    page.press("digits-7/5")
    page.wait_for_text("digits-7/5 ← digits-7/4 ← digits-7/3")
    page.press("Promote to production…")
    page.wait_for_text("Keep as it is")
    page.press("Promote to production")
    page.wait_for_text("production of digits is now digits-7/5.")
    assert list(served.operator.done[-1]) == ["promote", "digits", "production", "digits-7/5", "2"]
    page.press("digits-7/3")
    page.press("Roll back production…")
    page.wait_for_text("Keep as it is")
    page.press("Roll back production")
    page.wait_for_text("names its former model again.")
    assert list(served.operator.done[-1]) == ["rollback", "digits", "production", "2"]


def test_a_fleet_of_10000_devices_is_shown_in_blocks_and_pages(page: Browser, served: Served) -> None:
    page.click("button[aria-label='Show big']")
    page.wait_for_text("1,000 failed", "device-00000 and 99 more")
    cells = page.driver.find_elements(By.CSS_SELECTOR, ".cell")
    assert len(cells) == 100
    page.click(".cell", 3)
    page.wait_for_text("100 devices, page 1 of 2", "device-00300")
    page.press("Next devices")
    page.wait_for_text("100 devices, page 2 of 2", "device-00399")
    page.press("Devices")
    page.wait_for_text("10,000 devices, page 1 of 200")
    assert served.guarded.done == []


def test_a_read_only_stack_offers_no_action(page: Browser) -> None:
    page.click("button[aria-label='Show big']")
    page.wait_for_text("device-00000 and 99 more")
    cards = page.driver.find_elements(By.CSS_SELECTOR, ".stacks > .card")
    assert "Cancel run" in cards[0].text
    assert "Start a run" in cards[0].text
    assert "Cancel run" not in cards[1].text
    assert "Start a run" not in cards[1].text


def test_the_page_says_when_the_cloud_is_gone_and_when_it_is_back(page: Browser, served: Served) -> None:
    served.fleet.connected = False
    served.fleet.change()
    page.wait_for_text("cloud gone", "The cloud is gone: no connection to AWS.")
    served.fleet.connected = True
    served.fleet.change()
    page.wait_for(lambda: "cloud gone" not in page.text())


def test_html_of_devices_is_shown_and_never_executed(page: Browser) -> None:
    for view in ("Devices", "Alarms"):
        page.press(view)
        page.wait_for_text('<img src=x onerror="window.hacked=1">')
    page.press("Overview")
    page.press("digits-5")
    page.wait_for_text("digits-5: no round yet")
    assert page.driver.find_elements(By.CSS_SELECTOR, "img[src='x']") == []


def test_html_in_the_name_of_a_metric_is_never_executed(page: Browser, served: Served) -> None:
    before = served.fleet.rounds
    name = "<img src=x onerror='window.hacked=1'>"
    served.fleet.rounds = tuple(
        msgspec.structs.replace(one, metrics={name: one.number / 10, f":{name}": 1.0}) for one in before
    )
    served.fleet.change()
    page.open(served.url)
    page.wait_for(lambda: name[:20] in page.driver.find_element(By.CSS_SELECTOR, ".chart").text, "the legend")
    page.wait_for_text(f"{name[:20]}")
    assert page.driver.find_elements(By.CSS_SELECTOR, "img[src='x']") == []
    served.fleet.rounds = before
    served.fleet.change()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious_in_any_view(page: Browser, served: Served, theme: str, width: int) -> None:
    page.open(served.url, width=width, height=900, theme=theme)
    for view in VIEWS:
        page.press(view)
        page.wait_for_text("fedgrass")
        assert page.violations() == [], view
        assert page.is_wide_enough(), view


def test_the_switch_chooses_a_theme_against_the_system(page: Browser, served: Served) -> None:
    page.open(served.url, theme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.runs_a_script(background)
    switch = page.driver.find_element(By.CSS_SELECTOR, ".theme select")
    switch.send_keys("dark")
    dark = page.wait_for(lambda: page.runs_a_script(f"{background} !== '{light}' && {background}"))
    page.open(served.url, theme="light")
    assert page.runs_a_script(background) == dark
    page.driver.find_element(By.CSS_SELECTOR, ".theme select").send_keys("system")
    page.wait_for(lambda: page.runs_a_script(background) == light)


def test_the_page_holds_no_credentials(page: Browser) -> None:
    secrets = [os.environ.get(name, "") for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")]
    source = page.driver.page_source
    assert not [secret for secret in secrets if secret and len(secret) > 8 and secret in source]
    assert page.runs_a_script("document.cookie") == ""


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),  # no cookie
        ({"Origin": "http://evil.example"}, 403),
        ({"Host": "evil.example"}, 403),
    ],
)
def test_a_websocket_of_another_page_is_refused_by_the_real_server(
    served: Served, headers: dict[str, str], status: int
) -> None:
    place = served.url.split("/")[2]
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Origin": f"http://{place}",
        **headers,
    }
    connection = http.client.HTTPConnection(place, timeout=10)
    connection.request("GET", "/_nicegui_ws/socket.io/?EIO=4&transport=websocket", headers=upgrade)
    assert connection.getresponse().status == status
    connection.close()

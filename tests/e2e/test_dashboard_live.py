"""``fedgrass dashboard`` on a deployed stack with devices: a run that is watched and steered in a browser."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from fedgrass.console.dashboard.page_server import listen
from fedgrass.federation.runs import RunState
from tests.e2e.conftest import Watched
from tests.e2e.dashboard_browser import MISSING, Browser, browser
from tests.e2e.processes import Command, command, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
]


@pytest.fixture(scope="module")
def site(make_site: Callable[..., Watched]) -> Watched:
    return make_site(2)


@pytest.fixture
def dashboard(site: Watched, tmp_path: Path) -> Iterator[Command]:
    environment = site.testbed.cloud.environment()
    with command(tmp_path, "dashboard", environment=environment) as started:
        started.wait_for("Ctrl-C ends it")
        yield started


def url_of(dashboard: Command) -> str:
    found = re.search(r"dashboard: (http://127\.0\.0\.1:\d+/)\n", dashboard.said())
    assert found
    return found[1]


def rounds_drawn(page: Browser) -> int:
    rows = page.driver.find_elements(By.CSS_SELECTOR, "[aria-label='Rounds'] tbody tr")
    return sum("closed" in row.text for row in rows)


def test_a_live_run_is_watched_paused_resumed_and_cancelled(site: Watched, dashboard: Command) -> None:
    operator = site.testbed.operator
    with browser() as page:
        page.open(url_of(dashboard))
        page.wait_for_text("live")
        site.start("steered", rounds=500, deadline_seconds=60)
        page.wait_for_text("steered", "RUNNING")
        seen = page.wait_for(lambda: rounds_drawn(page), "a closed round")
        page.wait_for(lambda: rounds_drawn(page) > seen, "a further closed round")
        page.wait_for(lambda: page.driver.find_elements(By.CSS_SELECTOR, ".chart svg path"), "curves")

        page.press("Pause…")
        page.wait_for_text("Keep as it is")
        page.press("Pause")
        page.wait_for_text("Pause: done for steered.", "PAUSED")
        assert operator.run("steered").state is RunState.PAUSED
        page.press("Resume…")
        page.wait_for_text("Keep as it is")
        page.press("Resume")
        page.wait_for_text("Resume: done for steered.", "RUNNING")
        page.press("Cancel run…")
        page.wait_for_text("Keep as it is")
        page.press("Cancel run")
        page.wait_for_text("Cancel run: done for steered.", "CANCELLED")
        wait_until(lambda: operator.run("steered").state is RunState.CANCELLED, "the end of the run")

        page.click("summary", -1)
        for action in ("cancel", "resume", "pause", "start"):
            page.wait_for_text(action)
        page.press("Devices")
        page.wait_for_text("2 devices, page 1 of 1")
        page.click("[aria-label='Devices'] tbody button")
        page.wait_for_text("Its last rounds", "turnaround", "steered/", "completed")
        page.press("Models")
        page.press("steered/1")
        page.press("Promote to production…")
        page.wait_for_text("Keep as it is")
        page.press("Promote to production")
        page.wait_for_text("production of noise is now steered/1.", "Roll back production…")

        page.press("Overview")
        page.press("Start a run…")
        for field, value in {"run_name": "second", "task": "noise", "rounds": "1"}.items():
            page.fill(field, value)
        page.fill("continue_from", "steered/1")
        page.press("Start the run")
        page.wait_for_text("Started second.", "second: round ")
        assert operator.run("second").continued_from.endswith("steered/1.safetensors")
        assert page.complaints() == []
        assert page.hosts() == {url_of(dashboard).split("/")[2]}
    dashboard.interrupt()
    assert dashboard.wait() == 130
    assert "Traceback" not in dashboard.said()
    assert dashboard.left_behind() == []


def test_the_page_is_back_when_the_dashboard_is_started_again(site: Watched, tmp_path: Path) -> None:
    environment = site.testbed.cloud.environment()
    with listen("127.0.0.1", 0) as free:
        port = str(free.getsockname()[1])
    with browser() as page:
        with command(tmp_path / "first", "dashboard", "--port", port, environment=environment) as first:
            first.wait_for("Ctrl-C ends it")
            page.open(url_of(first))
            page.wait_for_text("live")
            first.interrupt()
            assert first.wait() == 130
        page.wait_for_text("Connection lost")
        with command(tmp_path / "second", "dashboard", "--port", port, environment=environment) as second:
            second.wait_for("Ctrl-C ends it")
            page.wait_for(lambda: "Connection lost" not in page.text() and "live" in page.text())
            page.press("Devices")
            page.wait_for_text("2 devices, page 1 of 1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stack", "nowhere"], "the stack 'nowhere' in us-east-1 cannot be read"),
        (["--host", "0.0.0.0"], "name by --allow-host NAME what browsers connect to"),  # noqa: S104
        (["--region", "us-east-1", "--region", "eu-west-1"], "--region is given 2 times for 1 stack"),
    ],
)
def test_a_mistake_is_one_line(site: Watched, tmp_path: Path, words: list[str], message: str) -> None:
    environment = site.testbed.cloud.environment()

    with command(tmp_path, "dashboard", *words, environment=environment) as started:
        assert started.wait() == 1
        said = started.said()
    assert message in said
    assert len(said.splitlines()) == 1

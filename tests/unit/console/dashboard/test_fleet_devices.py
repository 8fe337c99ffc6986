"""The dashboard's list of devices: pages, filters, health, counts."""

import pytest

from fedgrass.console.dashboard.fleet_devices import DeviceBook
from fedgrass.federation.selection import Candidate

NOW = 1_700_000_000_000


def candidate(name: str, last_seen: int = NOW, **attributes: str | float | bool) -> Candidate:
    return Candidate(name, last_seen, frozenset({"digits"}), 7, {"version": "1.0", **attributes})


def book(*candidates: Candidate, heartbeat_seconds: float = 60) -> DeviceBook:
    made = DeviceBook(heartbeat_seconds)
    made.read(candidates, NOW)
    return made


def names(found: DeviceBook, **wanted: str) -> list[str]:
    return [
        line.device
        for line in found.page(0, 50, **{"text": "", "health": "", "version": "", **wanted}).devices
    ]


def test_devices_are_listed_by_name_in_pages() -> None:
    found = book(*(candidate(f"d{number:02}") for number in reversed(range(25))))
    page = found.page(2, 10, "", "", "")
    assert [line.device for line in page.devices] == ["d20", "d21", "d22", "d23", "d24"]
    assert (page.matching, page.page, page.pages) == (25, 2, 3)
    assert found.page(9, 10, "", "", "").page == 2
    assert found.page(-1, 10, "", "", "").page == 0


def test_a_page_has_at_most_500_devices() -> None:
    found = book(*(candidate(f"d{number:04}") for number in range(600)))
    assert len(found.page(0, 10**9, "", "", "").devices) == 500
    assert len(found.page(0, 0, "", "", "").devices) == 1


def test_devices_are_found_by_name_task_and_attribute() -> None:
    found = book(candidate("north-1", site="Barn"), candidate("south-1", battery=80.0))
    assert names(found, text="NORTH") == ["north-1"]
    assert names(found, text="site=barn") == ["north-1"]
    assert names(found, text="battery") == ["south-1"]
    assert names(found, text="digits") == ["north-1", "south-1"]
    assert names(found, version="2.0") == []


def test_a_device_is_missing_after_five_minutes_or_three_heartbeats() -> None:
    devices = (candidate("here", NOW - 299_000), candidate("gone", NOW - 301_000))
    assert names(book(*devices), health="missing") == ["gone"]
    assert names(book(*devices, heartbeat_seconds=600), health="missing") == []


def test_a_row_that_was_read_long_ago_does_not_make_a_device_missing() -> None:
    found = book(candidate("d"))
    found.read([candidate("other", NOW + 10**7)], NOW + 10**7)
    assert names(found, health="missing") == []


def test_a_device_that_reports_an_error_has_a_problem() -> None:
    found = book(candidate("d", connection_error="no route"), candidate("e", connection_error=""))
    (line,) = found.page(0, 50, "", "problem", "").devices
    assert (line.device, line.problem) == ("d", "connection: no route")


def test_a_message_of_a_device_shows_that_it_is_alive() -> None:
    found = book(candidate("d", NOW - 10**6))
    found.heard("d", NOW + 1)
    found.heard("unknown", NOW + 1)
    assert names(found, health="missing") == []
    assert len(found) == 1


def test_devices_that_a_pass_does_not_meet_are_removed_at_its_end() -> None:
    found = book(candidate("d"), candidate("forgotten"))
    found.end_pass()
    found.read([candidate("d")], NOW)
    assert len(found) == 2
    found.end_pass()
    assert names(found) == ["d"]


def test_devices_are_counted() -> None:
    found = book(
        candidate("a"),
        candidate("b", version="2.0"),
        candidate("c", NOW - 10**6),
        candidate("d", work_error="x"),
    )
    counts = found.counts()
    assert (counts.total, counts.seen, counts.missing, counts.problems) == (4, 3, 1, 1)
    assert counts.by_version == {"1.0": 3, "2.0": 1}
    assert counts.by_task == {"digits": 4}
    assert not counts.complete


@pytest.mark.parametrize(("value", "shown"), [(80.0, "80"), (0.5, "0.5"), (True, "True"), ("<b>", "<b>")])
def test_attributes_are_shown_as_text(value: str | float, shown: str) -> None:
    line = book(candidate("d", x=value)).line("d")
    assert line
    assert line.attributes["x"] == shown

"""The output of ``fedgrass devices``."""

import pytest
from rich.console import Console

from fedgrass.console.runs.operator_actions import (
    ago,
    chosen_devices,
    device_problems,
    device_summary,
    device_table,
)
from fedgrass.federation.selection import Candidate

NOW = 1_000_000_000
OLD = {"state": "[red]idle", "version": "0.1.0"}
FLEET = [
    Candidate(
        "thing-2",
        NOW - 4_000,
        frozenset({"mnist", "digits"}),
        60,
        {"state": "training", "version": "0.2.0", "configuration_error": "tasks is 3: it takes an object"},
    ),
    Candidate(
        "thing-1", NOW - 7_200_000, frozenset({"digits"}), 40, {"state": "[red]idle", "version": "0.1.0"}
    ),
]


def shown(devices: list[Candidate]) -> str:
    console = Console(record=True, width=100)
    console.print(device_table(devices, NOW))
    return console.export_text()


def test_each_device_has_a_line_with_its_last_heartbeat() -> None:
    lines = shown(chosen_devices(FLEET, "", None)).splitlines()
    first, second = (
        next(i for i, line in enumerate(lines) if name in line) for name in ("thing-1", "thing-2")
    )
    assert first < second
    for text in ("2 h ago", "[red]idle", "digits", "40", "0.1.0"):
        assert text in lines[first]
    for text in ("4 s ago", "training", "digits, mnist", "60", "0.2.0"):
        assert text in lines[second]


def test_a_refused_configuration_of_a_device_is_shown() -> None:
    (line,) = device_problems(FLEET)
    assert line == "thing-2: configuration change refused: tasks is 3: it takes an object"


def test_only_those_with_a_task_or_those_that_are_missing_are_shown_if_asked() -> None:
    assert [device.device for device in chosen_devices(FLEET, "mnist", None)] == ["thing-2"]
    assert [device.device for device in chosen_devices(FLEET, "", NOW - 300_000)] == ["thing-1"]
    assert chosen_devices(FLEET, "mnist", NOW - 300_000) == []


def test_the_last_line_counts_those_that_are_missing() -> None:
    assert device_summary(FLEET, NOW, 300) == "2 devices, 1 not seen in the last 300 s"
    assert device_summary([], NOW, 300) == "0 devices, 0 not seen in the last 300 s"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-2, "0 s ago"), (59.4, "59 s ago"), (60, "1 min ago"), (7199, "1 h ago"), (200_000, "2 d ago")],
)
def test_a_time_is_shown_in_its_largest_unit(seconds: float, words: str) -> None:
    assert ago(seconds) == words


def test_a_device_that_does_not_receive_its_announcements_is_named_with_the_reason() -> None:
    reason = "announcements are not received: IoT Core said Quota exceeded"
    deaf = Candidate("thing-3", NOW, frozenset({"digits"}), 40, {"connection_error": reason})
    assert list(device_problems([*FLEET, deaf]))[-1] == f"thing-3: connection: {reason}"

"""The summary of ``fedgrass devices list``, its filters and its pages."""

from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from fedgrass.console.devices import device_views, registered_devices
from fedgrass.console.devices.ages import ago
from fedgrass.console.devices.device_filters import DeviceFilters
from fedgrass.console.devices.device_summary import DeviceList, summarize_devices
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.selection import Candidate
from fedgrass.federation.selection.attribute_conditions import Value

NOW = 1_000_000_000
WITHIN = 300
SEEN_SINCE = NOW - WITHIN * 1000
FLEET = [
    Candidate(
        "thing-2",
        NOW - 4_000,
        frozenset({"mnist", "digits"}),
        60,
        {
            "state": "working",
            "version": "0.2.0",
            "expires_at": 5.0,
            "network": "wifi",
            "battery": 80.0,
            "mains": True,
            "firmware": "1.10",
            "configuration_error": "tasks is 3: it takes an object",
        },
    ),
    Candidate(
        "thing-1",
        NOW - 7_200_000,
        frozenset({"digits"}),
        40,
        {"state": "[red]idle", "version": "0.1.0", "network": "ethernet", "battery": 20.0},
    ),
]


def chosen(**conditions: Any) -> list[str]:
    found = DeviceFilters(**conditions).choose(FLEET, SEEN_SINCE)
    return [device.device for device in found]


def summary(devices: list[Candidate]) -> DeviceList:
    return summarize_devices(devices, len(devices), SEEN_SINCE, WITHIN)


def large_fleet(count: int = 3_000) -> list[Candidate]:
    return [
        Candidate(
            f"thing-{number:04}",
            NOW - 1_000 * (number % 500),
            frozenset({"digits"}),
            10,
            {
                "state": "working" if number % 60 == 0 else "idle",
                "version": "0.8.1" if number % 300 == 0 else "0.9.0",
                "serial": f"s-{number}",
                "battery": float(number % 101),
                "site": f"site-{number % 40}",
                **({"network": "wifi"} if number % 3 else {}),
            },
        )
        for number in range(count)
    ]


def test_three_thousand_devices_are_a_few_lines() -> None:
    lines = list(device_views.summary_lines(summary(large_fleet())))
    assert lines == [
        "3,000 devices: 1,806 seen in the last 300 s, 1,194 not",
        "  state    2,950 x idle, 50 x working",
        "  version  2,990 x 0.9.0, 10 x 0.8.1",
        "  tasks    3,000 x digits",
        "  battery  0 to 100, median 49.5",
        "  network  2,000 x wifi (1,000 do not report it)",
        "  serial   3,000 different values",
        "  site     75 x site-0, 75 x site-1, 75 x site-10, 75 x site-11, 75 x site-12, 40 different values",
    ]


def test_a_fleet_without_devices_is_one_line() -> None:
    assert list(device_views.summary_lines(summary([]))) == [
        "no devices: none has sent a heartbeat to the stack yet"
    ]


def test_filters_that_no_device_meets_are_not_mistaken_for_an_empty_fleet() -> None:
    found = summarize_devices([], 4, 0, 300)
    assert list(device_views.summary_lines(found)) == ["0 of 4 devices meet the filters"]


def test_one_device_cannot_fill_the_summary_with_its_attributes() -> None:
    devices = large_fleet()
    more: dict[str, Value] = {f"a-{number}": "x" for number in range(60)}
    odd = {**devices[0].attributes, **more, "version": "v" * 3000, "n" * 3000: "x"}
    devices[0] = replace(devices[0], attributes=odd)
    lines = list(device_views.summary_lines(summary(devices)))
    assert len(lines) == 1 + 3 + 20 + 1
    assert max(len(line) for line in lines) < 250
    assert any(line.startswith("  battery") for line in lines)
    assert lines[-1] == "  and 45 more attributes, which fewer devices report: --output json has them"


def test_the_summary_of_filtered_devices_says_of_how_many() -> None:
    found = summarize_devices(FLEET[:1], 2, SEEN_SINCE, WITHIN)
    first, *_, last = device_views.summary_lines(found)
    assert first == "1 device of 2: 1 seen in the last 300 s, 0 not"
    assert last == "1 device reports a problem"


def test_true_and_one_are_counted_apart() -> None:
    devices = [
        Candidate(f"t-{number}", NOW, attributes={"flag": value})
        for number, value in enumerate([True, 1.0, 1.0])
    ]
    (flag,) = summary(devices).attributes
    assert [(one.value, one.count) for one in flag.values] == [(1.0, 2), (True, 1)]
    assert flag.median is None
    assert "2 x 1, 1 x true" in "\n".join(device_views.summary_lines(summary(devices)))


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        ({}, ["thing-1", "thing-2"]),
        ({"task": "mnist"}, ["thing-2"]),
        ({"missing": True}, ["thing-1"]),
        ({"task": "mnist", "missing": True}, []),
        ({"version": "0.1.0"}, ["thing-1"]),
        ({"state": "working"}, ["thing-2"]),
        ({"things": frozenset({"thing-1", "elsewhere"})}, ["thing-1"]),
        ({"where": ("network=wifi",)}, ["thing-2"]),
        ({"where": ('network="wifi"',)}, ["thing-2"]),
        ({"where": ("battery=20",)}, ["thing-1"]),
        ({"where": ("mains=true",)}, ["thing-2"]),
        ({"where": ("firmware=1.10",)}, ["thing-2"]),
        ({"where": ("firmware=1.1",)}, []),
        ({"where": ("battery >= 30",)}, ["thing-2"]),
        ({"where": ("battery>=10", "network=ethernet")}, ["thing-1"]),
        ({"where": ('not mains or network in ["ethernet"]',)}, ["thing-1"]),
        ({"where": ("version=0.2.0",)}, ["thing-2"]),
    ],
)
def test_the_devices_for_which_all_conditions_hold_are_chosen_by_name(
    conditions: dict[str, Any], names: list[str]
) -> None:
    assert chosen(**conditions) == names


@pytest.mark.parametrize("text", ["network ~ wifi", "=wifi", "battery >=", "a b=c", "and=1", ""])
def test_a_condition_that_cannot_be_parsed_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        chosen(where=(text,))
    assert f"--where {text!r}" in str(refused.value)


def test_a_page_ends_at_the_limit_and_names_the_next_device() -> None:
    found = summary(large_fleet(5))
    first = registered_devices.page_of(found, "", 2)
    assert [one.device for one in first.devices] == ["thing-0000", "thing-0001"]
    assert first.next_device == "thing-0002"
    assert (first.count, first.registered) == (5, 5)
    second = registered_devices.page_of(found, "thing-0001", 2)
    assert [one.device for one in second.devices] == ["thing-0002", "thing-0003"]
    last = registered_devices.page_of(found, "thing-0003", 2)
    assert ([one.device for one in last.devices], last.next_device) == (["thing-0004"], "")


def test_each_device_has_a_line_with_its_last_heartbeat() -> None:
    console = Console(record=True, width=100)
    records = summary(sorted(FLEET, key=lambda device: device.device)).devices
    console.print(device_views.device_table(records, NOW))
    lines = console.export_text().splitlines()
    first, second = (
        next(i for i, line in enumerate(lines) if name in line) for name in ("thing-1", "thing-2")
    )
    assert first < second
    for text in ("2 h ago", "[red]idle", "digits", "40", "0.1.0"):
        assert text in lines[first]
    for text in ("4 s ago", "working", "digits, mnist", "60", "0.2.0"):
        assert text in lines[second]


def test_a_problem_that_a_device_reports_is_shown_with_its_reason() -> None:
    reason = "announcements are not received: IoT Core said Quota exceeded"
    deaf = Candidate("thing-3", NOW, frozenset({"digits"}), 40, {"connection_error": reason})
    assert list(device_views.problem_lines(summary([FLEET[0], deaf]).devices)) == [
        "thing-2: configuration change refused: tasks is 3: it takes an object",
        f"thing-3: connection: {reason}",
    ]


def test_columns_of_the_table_are_no_attributes_of_a_device() -> None:
    (record,) = summary(FLEET[:1]).devices
    assert record.attributes == {"battery": 80.0, "firmware": "1.10", "mains": True, "network": "wifi"}
    assert (record.state, record.component_version, record.missing) == ("working", "0.2.0", False)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-2, "0 s ago"), (59.4, "59 s ago"), (60, "1 min ago"), (7199, "1 h ago"), (200_000, "2 d ago")],
)
def test_a_time_is_shown_in_its_largest_unit(seconds: float, words: str) -> None:
    assert ago(seconds) == words

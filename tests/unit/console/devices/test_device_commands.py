"""``fedgrass devices list``, ``show`` and ``forget`` over a small fleet in memory."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from fedgrass.console import main, stack
from fedgrass.console.devices import registered_devices
from fedgrass.federation.errors import SettingsError
from tests.fakes.device_operator import (
    NOW,
    DeviceOperator,
    Things,
    Turnarounds,
    completion,
    decline,
    refusal,
)
from tests.fakes.small_fleet import SmallFleet

Run = Callable[..., str]


class Console:
    """The command line over a fleet, a turnarounds table and a registry in memory."""

    def __init__(self, devices: int = 3, **settings: Any) -> None:
        self.fleet = SmallFleet(devices=devices, **settings)
        self.operator, self.turnarounds, self.things = DeviceOperator(self.fleet), Turnarounds(), Things()

    def clients(self, service: str) -> Any:
        return {"dynamodb": self.turnarounds, "iot": self.things}[service]


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Console:
    made = Console()
    monkeypatch.setattr(registered_devices, "_open", lambda _: (made.operator, "turnarounds"))
    monkeypatch.setattr(stack, "client", made.clients)
    monkeypatch.setattr(registered_devices, "_now", lambda: made.fleet.now + 5_000)
    return made


@pytest.fixture
def run(console: Console, capsys: pytest.CaptureFixture[str]) -> Run:
    assert console

    def run_command(*words: str) -> str:
        main.run(["devices", *words])
        return capsys.readouterr().out

    return run_command


def test_a_small_fleet_is_listed_with_its_summary(run: Run) -> None:
    lines = run().splitlines()
    assert lines[0] == "3 devices: 3 seen in the last 300 s, 0 not"
    assert [line.split()[0] for line in lines[-3:]] == ["thing-0", "thing-1", "thing-2"]
    assert run("list").splitlines() == lines


def test_of_a_large_fleet_rows_are_only_printed_when_they_are_asked_for(console: Console, run: Run) -> None:
    for number in range(100):
        console.fleet.devices.heartbeat(f"press-{number:03}", console.fleet.now, "digits")
    lines = run("list").splitlines()
    assert lines[0] == "103 devices: 103 seen in the last 300 s, 0 not"
    assert lines[-1].startswith("--all lists them; --where")
    assert len(lines) < 6
    page = run("list", "--task", "digits").splitlines()
    assert page[-1] == "and 53 more: --after press-049 has the next ones, --all has all"
    assert sum(line.startswith("press-") for line in page) == 50
    assert sum(line.startswith("press-") for line in run("list", "--after", "press-089").splitlines()) == 10
    assert len(run("list", "--all").splitlines()) == len(page) - 1 - 50 + 103
    found = json.loads(run("list", "--output", "json"))
    assert (found["count"], len(found["devices"]), found["next_device"]) == (103, 103, "")
    found = json.loads(run("list", "--output", "json", "--limit", "2"))
    assert (found["count"], len(found["devices"]), found["next_device"]) == (103, 2, "press-002")
    assert found["left_out"] == 101


def test_a_filter_that_no_device_meets_prints_one_line(run: Run) -> None:
    assert run("list", "--where", "site=x") == "0 of 3 devices meet the filters\n"


def test_a_condition_that_cannot_be_parsed_is_refused_before_the_table_is_read(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(DeviceOperator, "devices")
    with pytest.raises(SettingsError, match="--where 'a b' is neither attribute=value nor an expression"):
        run("list", "--where", "a b")


def test_a_device_is_shown_with_its_certificate_groups_and_rounds(console: Console, run: Run) -> None:
    for number in (1, 2):
        for device in ("thing-0", "thing-1", "thing-2"):
            seconds = (1, 1, 30, 1) if device == "thing-1" else (1, 1, 2, 1)
            row = completion(f"run-9/{number}/1", device, console.fleet.now - 60_000 * number, seconds)
            console.turnarounds.rows.append(row)
    console.turnarounds.rows.append(decline("run-8/1/1", "thing-1", console.fleet.now - 7_200_000))
    lines = run("show", "thing-1").splitlines()
    assert lines[0] == "thing-1: seen 5 s ago"
    assert "thing groups: all, presses; thing type: press" in lines
    assert "thing attributes: hall=3" in lines
    assert f"certificate {'c' * 64}: ACTIVE, expires 2027-01-02, in 1144 d" in lines
    assert lines[-2] == "run-8/1/1 declined 2 h ago: battery"
    assert "most of it in train (30.0 s instead of 2.0 s)" in lines[-1]
    first = lines.index("last replies to run run-9, and the medians of all devices in the same rounds:")
    rows = [line.split() for line in lines[first + 2 : first + 6]]
    assert rows[0] == ["1", "1", "min", "34.0", "1.0", "1.0", "30.0", "1.0", "1.0", "40"]
    assert rows[1] == ["median", "of", "3", "6.0", "1.0", "1.0", "2.0", "1.0", "1.0", "40"]
    assert rows[2][:3] == ["2", "2", "min"]


def test_what_the_cloud_made_of_a_reply_is_shown(console: Console, run: Run) -> None:
    console.fleet.start()
    opened = console.fleet.newest()
    console.fleet.status("thing-1", "failed", opened, reason="the disk is full")
    console.turnarounds.rows.append(completion("run-1/1/1", "thing-1", console.fleet.now))
    found = json.loads(run("show", "thing-1", "--output", "json"))
    assert found["rounds"][0]["counted"] == "FAILED"
    assert found["rounds"][0]["counted_reason"] == "the disk is full"
    assert found["assignments"][0]["state"] == "FAILED"
    assert "run-1/1/1 (OPEN): FAILED: the disk is full" in run("show", "thing-1").splitlines()


def test_a_certificate_that_has_expired_and_one_that_is_missing_are_named(
    console: Console, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    console.things.certificate["validity"] = {"notAfter": console_time(console, days=-3)}
    assert "ACTIVE, EXPIRED 2023-11-11" in run("show", "thing-1")
    monkeypatch.setattr("fedgrass.console.devices.device_registration.certificates_of", lambda *_: [])
    assert "certificate: none is attached to the thing, so it cannot connect" in run("show", "thing-1")


def console_time(console: Console, days: int) -> Any:
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415 - of this one test

    return datetime.fromtimestamp(console.fleet.now / 1000, tz=UTC) + timedelta(days=days)


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ("describe_thing", "the thing cannot be read"),
        ("list_thing_groups_for_thing", "its thing groups cannot be read"),
        ("list_thing_principals", "its certificates cannot be read"),
        ("describe_certificate", "its certificates cannot be read"),
    ],
)
def test_what_may_not_be_read_is_named_and_the_rest_is_shown(
    operation: str, words: str, console: Console, run: Run
) -> None:
    console.things.refused[operation] = refusal("AccessDeniedException")
    lines = run("show", "thing-1").splitlines()
    assert any(line.startswith(words) and "AccessDenied" in line for line in lines)
    assert lines[0].startswith("thing-1: seen")


def test_a_stack_without_the_index_shows_all_but_the_rounds(console: Console, run: Run) -> None:
    console.turnarounds.refused = refusal("ValidationException")
    lines = run("show", "thing-1").splitlines()
    assert "has no index by-device" in lines[-1]
    assert not any("has not replied" in line for line in lines)


def test_a_device_whose_row_is_gone_is_shown_by_what_is_left(console: Console, run: Run) -> None:
    console.fleet.devices.forget("thing-1", console.fleet.now)
    assert (
        run("show", "thing-1").splitlines()[0] == "thing-1: no heartbeat is registered, so no round asks it"
    )


@pytest.mark.parametrize("command", ["show", "forget"])
def test_an_unknown_device_is_refused_with_the_nearest_name(command: str, run: Run) -> None:
    with pytest.raises(SettingsError, match="no device 'thing-02' in the stack: did you mean 'thing-2'"):
        run(command, "thing-02")
    with pytest.raises(SettingsError, match="'zzz' in the stack: `fedgrass devices list --all` has all"):
        run(command, "zzz")
    with pytest.raises(SettingsError, match="'a/b' cannot name a thing"):
        run(command, "a/b")


def test_a_device_is_forgotten_when_it_is_confirmed(console: Console, run: Run) -> None:
    out = run("forget", "thing-1", "--yes")
    assert out.splitlines()[0] == "forgot thing-1, seen 5 s ago: no round asks it any more"
    assert "registered again by its next heartbeat" in out
    assert console.operator.forgotten == [("thing-1", console.fleet.now)]
    assert "thing-1" not in run("list")


def test_a_dry_run_forgets_nothing(console: Console, run: Run) -> None:
    assert run("forget", "thing-1", "--dry-run").startswith("would remove thing-1, seen 5 s ago")
    found = json.loads(run("forget", "thing-1", "--dry-run", "--output", "json"))
    assert (found["forgotten"], found["dry_run"]) == (False, True)
    assert console.operator.forgotten == []


def test_without_a_terminal_it_has_to_be_confirmed_by_an_option(console: Console, run: Run) -> None:
    with pytest.raises(SettingsError, match=r"this removes thing-1, seen 5 s ago, .*: confirm it by --yes"):
        run("forget", "thing-1")
    assert console.operator.forgotten == []


@pytest.mark.parametrize(("answer", "forgotten"), [("y", 1), ("YES", 1), ("", 0), ("n", 0), ("thing-1", 0)])
def test_on_a_terminal_only_a_yes_confirms(
    answer: str, forgotten: int, console: Console, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(registered_devices, "prompt", lambda _: answer)
    if forgotten:
        run("forget", "thing-1")
    else:
        with pytest.raises(SettingsError, match="thing-1 was not forgotten"):
            run("forget", "thing-1")
    assert len(console.operator.forgotten) == forgotten


def test_a_device_in_an_open_round_is_not_forgotten(console: Console, run: Run) -> None:
    console.fleet.start()
    with pytest.raises(SettingsError, match=r"takes part in the open round run-1/1/1 \(ASKED\): wait until"):
        run("forget", "thing-1", "--dry-run")
    assert console.operator.forgotten == []


def test_a_device_that_someone_else_removed_meanwhile_is_no_error(
    console: Console, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.operator, "forget", lambda *_: False)
    assert run("forget", "thing-1", "--yes").startswith("thing-1 was removed by someone else")


@pytest.mark.parametrize(
    "words", [["list", "--within-seconds", "0"], ["show", "t", "--rounds", "101"], ["list", "--limit", "-1"]]
)
def test_a_number_out_of_range_is_a_mistake_in_the_command_line(
    words: list[str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*words)
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_time_of_the_fleet_is_the_one_of_the_rows() -> None:
    assert SmallFleet(devices=1).now == NOW

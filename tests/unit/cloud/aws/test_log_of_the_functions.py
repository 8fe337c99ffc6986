"""The functions' log: JSON lines with run, round and device, and metrics for CloudWatch."""

import dataclasses
import io
import itertools
import json
from typing import Any

import pytest

from cloud_functions import averager, initiator, wiring
from cloud_functions.aws.powertools_log import PowertoolsLog
from cloud_functions.monitoring import UNITS, Metric
from fedgrass.federation.topics import Kind
from tests.fakes.small_fleet import SmallFleet

NAMES = {
    "MessagesIgnored",
    "RoundsClosed", "RoundsAbandoned", "RoundSeconds", "TurnaroundSeconds", "UpdatesAccepted",
    "UpdatesRefused", "UpdatesLate", "DevicesAsked", "DevicesFailed", "DevicesSeen", "Accuracy", "Loss",
    "AveragingSeconds", "ModelsCollapsed", "BytesUploaded", "BytesDownloaded", "UpdatesStale", "Staleness",
}  # fmt: skip  # as template.yaml's alarms and dashboard name them

_NUMBERS = itertools.count()


class Context:
    aws_request_id = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return 300_000


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def fleet_name() -> str:
    return f"garden-{next(_NUMBERS)}"  # Python has one logger per name in a process


@pytest.fixture
def log(fleet_name: str, stream: io.StringIO) -> PowertoolsLog:
    return PowertoolsLog(fleet_name, stream)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def measured(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_every_line_is_json_with_run_round_and_device(
    log: PowertoolsLog, stream: io.StringIO, fleet_name: str
) -> None:
    log("before")
    with log.about("run-1", 3, "thing-1"):
        log("within", "ERROR")
        with log.about("run-2"):
            log("deeper")
        log("within again", "WARNING")
    log("after")
    keys = ("message", "level", "run", "round", "device")
    found = [tuple(line[key] for key in keys) for line in lines(stream)]
    assert found == [
        ("before", "INFO", "", 0, ""),
        ("within", "ERROR", "run-1", 3, "thing-1"),
        ("deeper", "INFO", "run-2", 0, ""),
        ("within again", "WARNING", "run-1", 3, "thing-1"),
        ("after", "INFO", "", 0, ""),
    ]
    assert {line["fleet"] for line in lines(stream)} == {fleet_name}


def test_a_line_after_a_failure_is_not_about_what_failed(log: PowertoolsLog, stream: io.StringIO) -> None:
    def fail() -> None:
        with log.about("run-1", 3, "thing-1"):
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - the test raises it
        fail()
    log("after")
    assert (lines(stream)[-1]["run"], lines(stream)[-1]["device"]) == ("", "")


@pytest.mark.parametrize("text", ["line\nbreak", 'a "quoted" {brace}', "50 % of %s", "größer ☃", "\x00"])
def test_a_text_of_a_device_stays_one_line(log: PowertoolsLog, stream: io.StringIO, text: str) -> None:
    log(text)
    assert json.loads(stream.getvalue())["message"] == text
    assert stream.getvalue().count("\n") == 1


def test_measurements_come_in_the_embedded_metric_format_with_the_fleet_as_their_only_dimension(
    log: PowertoolsLog, fleet_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with log.about("run-1", 3, "thing-1"):
        log.measure(Metric.TURNAROUND_SECONDS, 1.5)
        log.measure(Metric.TURNAROUND_SECONDS, 2.5)
        log.measure(Metric.UPDATES_LATE, 1)
    (line,) = measured(capsys)
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert (directive["Namespace"], directive["Dimensions"]) == ("fedgrass", [["Fleet"]])
    assert directive["Metrics"] == [
        {"Name": "TurnaroundSeconds", "Unit": "Seconds"},
        {"Name": "UpdatesLate", "Unit": "Count"},
    ]
    assert (line["Fleet"], line["TurnaroundSeconds"], line["UpdatesLate"]) == (fleet_name, [1.5, 2.5], [1.0])
    assert (line["run"], line["round"], line["device"]) == ("run-1", 3, "thing-1")


def test_measurements_of_two_rounds_are_two_lines(
    log: PowertoolsLog, fleet_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        with log.about("run-1", number):
            log.measure(Metric.ROUNDS_CLOSED, 1)
    assert [(line["round"], line["Fleet"]) for line in measured(capsys)] == [(1, fleet_name), (2, fleet_name)]


def test_a_value_that_is_not_a_number_does_not_spoil_the_line(
    log: PowertoolsLog, capsys: pytest.CaptureFixture[str]
) -> None:
    with log.about("run-1", 1):
        log.measure(Metric.LOSS, float("nan"))
        log.measure(Metric.LOSS, float("inf"))
        log.measure(Metric.ACCURACY, 0.5)
    (line,) = measured(capsys)
    assert ("Loss" in line, line["Accuracy"]) == (False, [0.5])


def test_the_metrics_have_the_names_that_the_alarms_know() -> None:
    assert set(Metric) == NAMES == set(UNITS)


def closed_round() -> SmallFleet:
    """Return a fleet whose run of one round has ended: two good updates, one refused, one late."""
    fleet = SmallFleet(4, rounds=1, threshold_count=2)
    fleet.start()
    opened = fleet.newest()
    fleet.now += 2_000
    metrics = {"loss": 0.25, "accuracy": 0.75}
    bad = fleet.upload("thing-0", opened, b"no weights")
    fleet.say("thing-0", Kind.COMPLETE, fleet.completion(opened, bad, "thing-0", metrics=metrics))
    for name in ("thing-1", "thing-2"):
        fleet.reply(name, opened, metrics=metrics)
    fleet.reply("thing-3", opened)
    return fleet


def test_the_end_of_a_round_is_measured_once() -> None:
    log = closed_round().journal
    assert log.values(Metric.ROUNDS_CLOSED) == [1]
    assert log.values(Metric.ROUNDS_ABANDONED) == []
    assert log.values(Metric.ROUND_SECONDS) == [2.0]
    assert log.values(Metric.DEVICES_ASKED) == [4]
    assert log.values(Metric.DEVICES_FAILED) == [0]
    assert log.values(Metric.DEVICES_SEEN)[0] == 4
    assert log.values(Metric.UPDATES_ACCEPTED) == [2]
    assert log.values(Metric.UPDATES_REFUSED) == [1]
    assert log.values(Metric.UPDATES_LATE) == [1]
    assert log.values(Metric.TURNAROUND_SECONDS) == [2.0] * 3
    assert (log.values(Metric.LOSS), log.values(Metric.ACCURACY)) == ([0.25], [0.75])
    assert len(log.values(Metric.AVERAGING_SECONDS)) == 1
    assert log.values(Metric.BYTES_UPLOADED)[0] > 0
    assert log.values(Metric.BYTES_DOWNLOADED)[0] > 0


def test_a_completion_that_comes_again_is_not_measured_again() -> None:
    fleet = SmallFleet(2, rounds=1)
    fleet.start()
    opened = fleet.newest()
    fleet.reply("thing-0", opened)
    fleet.reply("thing-0", opened)
    assert len(fleet.journal.values(Metric.TURNAROUND_SECONDS)) == 1
    assert fleet.journal.values(Metric.UPDATES_REFUSED) == []


def test_a_completion_that_is_not_a_message_counts_as_refused() -> None:
    fleet = SmallFleet(2, rounds=1)
    fleet.start()
    fleet.say("thing-0", Kind.COMPLETE, b"\xff")
    assert fleet.journal.values(Metric.UPDATES_REFUSED) == [1]


def test_what_is_written_of_a_reply_names_its_run_round_and_device() -> None:
    fleet = closed_round()
    (about, level, _) = next(entry for entry in fleet.journal.entries if "complete of" in entry[2])
    assert (about, level) == (("run-1", 1, "thing-0"), "INFO")
    # A report about the round names no device, although a device's reply triggered it.
    about = next(entry[0] for entry in fleet.journal.entries if "closed: models/run-1/1" in entry[2])
    assert about == ("run-1", 1, "")


def test_what_an_operator_is_refused_names_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = SmallFleet(2)
    monkeypatch.setattr(wiring, "services", lambda *_, **__: fleet.cloud)
    initiator.handler({"action": "pause", "run": "unknown"}, Context())
    assert fleet.journal.entries[-1] == (
        ("unknown", 0, ""),
        "WARNING",
        "refused: there is no run 'unknown': `fedgrass run list` lists those that there are",
    )


def test_a_message_that_fails_is_an_error_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = SmallFleet(2)
    monkeypatch.setattr(wiring, "services", lambda *_, **__: fleet.cloud)
    answer = averager.handler({"Records": [{"messageId": "7", "body": "no JSON"}]}, Context())
    assert answer == {"batchItemFailures": [{"itemIdentifier": "7"}]}
    assert fleet.journal.entries[-1][1] == "ERROR"


def test_the_count_of_devices_is_written_before_its_invocation_ends(
    monkeypatch: pytest.MonkeyPatch, log: PowertoolsLog, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lambda freezes the function after it; a metric that is written later is late or lost."""
    fleet = SmallFleet()
    fleet.start()
    services = dataclasses.replace(fleet.cloud, log=log)
    monkeypatch.setattr(wiring, "services", lambda *_, **__: services)
    event = {"Records": [{"messageId": "1", "body": '{"census": true}'}]}
    assert averager.handler(event, Context()) == {"batchItemFailures": []}
    (line,) = measured(capsys)
    assert line["DevicesSeen"] == [3.0]

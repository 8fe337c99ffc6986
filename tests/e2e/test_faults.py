"""Faults during a round: it continues, or ends with the reason."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import package
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import Run, RunState
from fedgrass.local.testbed import TRAINER
from tests.e2e.conftest import FLEET, Watched
from tests.e2e.handmade import HandmadeDevice
from tests.e2e.processes import wait_until


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate") / "open"


@pytest.fixture(scope="module")
def watched(make_site: Callable[..., Watched], gate: Path) -> Watched:
    """Two devices with a task `gated` that waits for the test, and a task `broken` that raises."""
    module = {"module": "tests.e2e.gated_task:Gated", "path": str(package.ROOT), "gate": str(gate)}
    broken = {"module": "tests.integration.device.slow_tasks:Broken", "path": str(package.ROOT)}
    return make_site(2, tasks={"noise": {"megabytes": 0.1}, "gated": module, "broken": broken})


@pytest.fixture(autouse=True)
def _closed_gate(gate: Path) -> Iterator[None]:
    gate.unlink(missing_ok=True)
    yield
    gate.touch()


def is_training(watched: Watched, thing: str, run: str) -> bool:
    topic = f"fedgrass/{FLEET}/clients/{thing}/status"
    return any(
        on == topic and run in said.decode() and '"progress"' in said.decode() for on, said in watched.heard
    )


def test_a_trainer_whose_ipc_closes_is_restarted_and_takes_its_open_work_up_again(
    watched: Watched, gate: Path
) -> None:
    watched.start("restart", task="gated")
    wait_until(lambda: is_training(watched, "device-1", "restart"), "device-1 to train")
    core = watched.testbed.fleet.devices["device-1"].core
    watched.testbed.fleet.call(core.close_ipc_streams(TRAINER))
    watched.wait_for_line("restart", "device-1", "announced again after its hello")
    gate.touch()
    assert watched.ended("restart").state is RunState.SUCCEEDED
    (record,) = watched.rounds("restart")
    assert (record.round.asked, record.round.replied, record.round.late) == (2, 2, 0)
    assert watched.testbed.fleet.devices["device-1"].core.component_state(TRAINER) == "RUNNING"


def test_an_announcement_that_comes_twice_is_worked_on_once(watched: Watched, gate: Path) -> None:
    watched.start("twice", task="gated")
    wait_until(lambda: is_training(watched, "device-1", "twice"), "device-1 to train")
    topic = f"fedgrass/{FLEET}/clients/device-1/announce"
    (announcement,) = [said for on, said in watched.heard if on == topic and b'"twice"' in said]
    for _ in range(3):
        watched.testbed.cloud.client("iot-data").publish(topic=topic, qos=1, payload=announcement)
    gate.touch()
    assert watched.ended("twice").state is RunState.SUCCEEDED
    watched.testbed.cloud.client("iot-data").publish(topic=topic, qos=1, payload=announcement)
    accepted = [said for on, said in watched.heard if on.endswith("device-1/status") and b'"twice"' in said]
    assert sum(b'"accepted"' in said for said in accepted) == 1
    assert watched.rounds("twice")[0].round.replied == 2


@pytest.fixture(scope="module")
def ended_without_device_2(watched: Watched) -> Mapping[str, Run]:
    """Two runs at once whose rounds wait for their deadlines, because one of the two devices is cut off."""
    core = watched.testbed.fleet.devices["device-2"].core
    watched.testbed.fleet.call(core.cut_mqtt())
    try:
        watched.start("silent", task="noise", deadline_seconds=15, minimum_replies=1)
        watched.start(
            "few", task="noise", deadline_seconds=15, minimum_replies=2, on_abandoned="retry", attempts=2
        )
        return {name: watched.ended(name) for name in ("silent", "few")}
    finally:
        watched.testbed.fleet.call(core.restore_mqtt())


def test_a_silent_device_does_not_stop_a_round_that_has_its_minimum(
    watched: Watched, ended_without_device_2: Mapping[str, Run]
) -> None:
    assert ended_without_device_2["silent"].state is RunState.SUCCEEDED
    (record,) = watched.rounds("silent")
    assert (record.round.state, record.round.replied) == (State.CLOSED, 1)
    watched.wait_for_line("silent", "aggregating", "the deadline passed and the minimum replied", "1 of 2")


def test_a_round_with_too_few_replies_is_abandoned_in_words_and_fails_the_run(
    watched: Watched, ended_without_device_2: Mapping[str, Run]
) -> None:
    run = ended_without_device_2["few"]
    assert run.state is RunState.FAILED
    assert "the deadline passed and too few replied (1 of 2 replied, 2 needed at least)" in run.reason
    assert [record.round.state for record in watched.rounds("few")] == [State.ABANDONED, State.ABANDONED]


def test_a_device_that_fails_reports_why_and_the_run_does_not_wait_for_it(watched: Watched) -> None:
    watched.start("broken", task="broken", on_abandoned="fail", deadline_seconds=600)
    run = watched.ended("broken")
    assert run.state is RunState.FAILED
    assert "too few devices are left" in run.reason
    line = watched.wait_for_line("broken", "device-1", "failed")
    assert "KeyError" in line
    assert "slow_tasks.py" in line


def test_a_task_that_no_device_has_is_refused_with_the_tasks_there_are(watched: Watched) -> None:
    with pytest.raises(SettingsError, match=r"task 'cracks'.*broken, digits, gated, noise"):
        watched.start("unknown", task="cracks")


def schedules(watched: Watched) -> list[dict[str, Any]]:
    """Return the pending schedules: their payloads and targets."""
    scheduler = watched.testbed.cloud.client("scheduler")
    listed = scheduler.list_schedules()["Schedules"]
    return [scheduler.get_schedule(GroupName=one["GroupName"], Name=one["Name"]) for one in listed]


def test_a_round_whose_alarm_was_lost_is_ended_by_the_next_sweep(watched: Watched, tmp_path: Path) -> None:
    with HandmadeDevice(watched.testbed, "silent", tmp_path, FLEET) as silent:
        silent.heartbeat()
        wait_until(
            lambda: "silent" in {c.device for c in watched.testbed.operator.devices()}, "its heartbeat"
        )
        settings = {"where": 'version == "0"', "deadline_seconds": 5, "accept_seconds": 0, "attempts": 1}
        watched.start("unheard", **settings)
        (deadline,) = [one for one in schedules(watched) if "unheard" in one["Target"]["Input"]]
        watched.testbed.cloud.client("scheduler").delete_schedule(
            GroupName=deadline["GroupName"], Name=deadline["Name"]
        )
        (record,) = watched.rounds("unheard")
        wait_until(lambda: time.time() * 1000 > record.round.deadline_at, "the deadline")
        assert watched.testbed.operator.run("unheard").state is RunState.RUNNING
        (sweep,) = [one for one in schedules(watched) if "sweep" in json.loads(one["Target"]["Input"])]
        assert sweep["ScheduleExpression"] == "rate(5 minutes)"
        assert sweep["Target"]["Arn"] == deadline["Target"]["Arn"]
        watched.testbed.cloud.client("sqs").send_message(
            QueueUrl=watched.testbed.stack["AlarmsQueueUrl"], MessageBody=sweep["Target"]["Input"]
        )
        assert watched.ended("unheard").state is RunState.FAILED
    (record,) = watched.rounds("unheard")
    assert record.round.reason.startswith("the deadline passed and too few replied")

"""Virtual devices in real worker processes: any number of them, one that dies, and their end."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.trainer.worker.worker_protocol import Failure, Result
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights import encode
from fedgrass.simulation.clients import open_clients
from fedgrass.simulation.clients.client_trainer import ClientTrainer, ClientUpdate
from fedgrass.simulation.simulation_spec import SimulationSpec
from tests.fakes.simulated_work import announced, devices, work_for

FLEET = devices(30)


def spec(**options: Any) -> SimulationSpec:
    return SimulationSpec(task="blobs=tests.fakes.blob_task:Blobs", task_options=options, devices=len(FLEET))


def updates(clients: ClientTrainer) -> list[ClientUpdate]:
    model = encode(clients.initial_model(1))
    return [
        one.result(timeout=300) for one in clients.submit(work_for(FLEET, announced(model)), lambda _: model)
    ]


def workers() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    before = {process.pid for process in workers()}
    yield
    assert {process.pid for process in workers()} <= before


def test_the_updates_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    found = []
    for count in (1, 2):
        (folder := tmp_path / str(count)).mkdir()
        with open_clients(spec(uneven=True), FLEET, count, folder) as clients:
            found.append(updates(clients))
            assert clients.evaluate(clients.initial_model(1)).keys() == {"loss", "accuracy"}
    assert found[0] == found[1]


def test_a_device_that_ends_its_worker_twice_fails_and_the_others_do_not(tmp_path: Path) -> None:
    (plain := tmp_path / "plain").mkdir()
    with open_clients(spec(), FLEET, 1, plain) as clients:
        whole = updates(clients)
    with open_clients(spec(killed=3), FLEET, 2, tmp_path) as clients:
        found = updates(clients)
    failure = found.pop(3).result
    assert isinstance(failure, Failure)
    assert failure.reason == (
        "task 'blobs' failed: its worker process was killed (SIGKILL), probably by the system for its use of"
        " memory, and so did the one after it"
    )
    assert all(isinstance(one.result, Result) for one in found)
    # The 25 of its group were trained one by one then; the others as before.
    assert found[24:] == whole[25:]


def test_a_worker_that_is_killed_once_costs_no_update(tmp_path: Path) -> None:
    with open_clients(spec(), FLEET, 1, tmp_path) as clients:
        whole = updates(clients)
        (worker,) = workers()
        worker.send_signal(signal.SIGKILL)
        assert updates(clients) == whole


def test_ctrl_c_is_not_for_the_workers(tmp_path: Path) -> None:
    with open_clients(spec(), FLEET, 1, tmp_path) as clients:
        (worker,) = workers()
        worker.send_signal(signal.SIGINT)
        time.sleep(0.2)
        assert updates(clients)
        assert worker.is_running()
    text = "".join(file.read_text() for file in (tmp_path / "workers").iterdir())
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("task", "options", "reason"),
    [
        ("blobs=nowhere.at.all:Blobs", {}, "task 'blobs' cannot be loaded from nowhere.at.all:Blobs"),
        ("blobs=tests.fakes.blob_task:Blobs", {"colour": 1}, "cannot be created with its options"),
        ("blobs=tests.fakes.blob_task:Blobs", {"model": "none"}, "cannot be used for device device-00000"),
        ("digits", {"share": 1}, "'share' is set for each device"),
        ("digit", {}, "there is no task 'digit'"),
    ],
)
def test_a_task_that_cannot_be_used_is_an_error_of_one_line(
    tmp_path: Path, task: str, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SettingsError, match=reason) as found:
        open_clients(SimulationSpec(task=task, task_options=options), FLEET, 1, tmp_path)
    assert "\n" not in str(found.value)


def test_more_devices_than_examples_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="at most 143 shares"):
        open_clients(SimulationSpec(task="digits"), devices(2000), 1, tmp_path)


def test_the_workers_end_with_their_parent(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:  # pragma: no cover - in the child
        open_clients(spec(), FLEET, 1, tmp_path)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 60
    (log,) = (tmp_path / "workers").iterdir()
    while psutil.pid_exists(int(log.stem)):
        assert time.monotonic() < deadline
        time.sleep(0.1)

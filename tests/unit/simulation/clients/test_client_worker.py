"""The work of virtual devices in a worker: together as one by one, and every setting as on a device."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.trainer.worker.worker_protocol import Failure, Result
from fedgrass.federation.encodings import Encoding
from fedgrass.federation.weights import decode
from fedgrass.simulation.clients.client_state import DeviceState
from fedgrass.simulation.clients.client_trainer import ClientUpdate
from fedgrass.simulation.clients.client_worker import ClientWorker
from fedgrass.simulation.clients.job_calls import JobResult, WorkerOptions
from fedgrass.simulation.fleets.device_conditions import DeviceConditions
from tests.fakes.simulated_work import MODEL_KEY, TASK, announced, devices, work_for

FLEET = devices(7)


def worker(tmp_path: Path, *, vectorize: bool = True, module: str = "Blobs", **options: Any) -> ClientWorker:
    given = {"module": f"tests.fakes.blob_task:{module}", **options}
    return ClientWorker(
        WorkerOptions(
            task=TASK,
            options=given,
            devices=len(FLEET),
            folder=str(tmp_path),
            most_bytes=2**40,
            vectorize=vectorize,
        )
    )


def perform(
    own: ClientWorker, fleet: Sequence[DeviceConditions] = FLEET, **announcement: Any
) -> tuple[JobResult, bytes]:
    model = own.initial_model(fleet[0], 0)
    assert isinstance(model, bytes)
    return own.perform(work_for(fleet, announced(model, **announcement)), {MODEL_KEY: model}), model


def distance(some: Sequence[ClientUpdate], others: Sequence[ClientUpdate]) -> float:
    assert [type(one.result) for one in some] == [Result] * len(others)
    pairs = [(decode(one.update), decode(other.update)) for one, other in zip(some, others, strict=True)]
    return max(
        float(np.abs(np.subtract(one[name], other[name], dtype=np.float64)).max())
        for one, other in pairs
        for name in one
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.0, "epochs": 1},
        {"proximal": 0.5},
        {"max_grad_norm": 0.1},
        {"class_weights": "balanced"},
        {"batch_size": 19, "seed": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("model", ["plain", "image"])
def test_clients_trained_together_make_what_each_makes_by_itself(
    tmp_path: Path,
    settings: dict[str, Any],
    uneven: bool,  # noqa: FBT001 - a parameter of the test
    model: str,
) -> None:
    together, _ = perform(worker(tmp_path, model=model, uneven=uneven), settings=settings)
    alone, _ = perform(worker(tmp_path, model=model, uneven=uneven, vectorize=False), settings=settings)
    assert distance(together.updates, alone.updates) < 1e-6
    assert not together.notes
    for one, other in zip(together.updates, alone.updates, strict=True):
        assert isinstance(one.result, Result)
        assert isinstance(other.result, Result)
        assert one.result.examples == other.result.examples
        assert one.result.metrics == pytest.approx(other.result.metrics, rel=1e-5)
        assert one.result.train_metrics == pytest.approx(other.result.train_metrics, rel=1e-5)
    assert distance(together.updates[:1], together.updates[1:2]) > 1e-3  # the clients differ


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model": "batch_norm"}, "BatchNorm1d '1' keeps running statistics"),
        ({"model": "branching"}, "data-dependent control flow|vmap"),
        ({"model": "counting"}, "batches"),
        ({"module": "Adaptive"}, "Adaptive has its own make_optimizer"),
    ],
)
def test_what_cannot_be_trained_together_is_trained_one_by_one_and_said(
    tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    together, _ = perform(worker(tmp_path, **options))
    alone, _ = perform(worker(tmp_path, vectorize=False, **options))
    assert [one.update for one in together.updates] == [one.update for one in alone.updates]
    (note,) = together.notes
    assert note.startswith("clients are trained one by one: ")
    assert re.search(reason, note)


def test_a_setting_that_needs_each_client_alone_is_named(tmp_path: Path) -> None:
    together, _ = perform(worker(tmp_path), settings={"patience_epochs": 2})
    assert together.notes == ["clients are trained one by one: training.patience_epochs is 2"]


def test_dropout_differs_from_client_to_client_and_is_the_same_in_each_simulation(tmp_path: Path) -> None:
    first, _ = perform(worker(tmp_path, model="dropout"), settings={"seed": 5})
    second, _ = perform(worker(tmp_path, model="dropout"), settings={"seed": 5})
    assert [one.update for one in first.updates] == [one.update for one in second.updates]
    assert not first.notes


def test_a_result_has_no_durations_of_this_machine(tmp_path: Path) -> None:
    done, _ = perform(worker(tmp_path))
    (result,) = {
        (r.download_seconds, r.evaluate_seconds, r.train_seconds, r.worker_seconds, str(r.timeline))
        for one in done.updates
        if isinstance(r := one.result, Result)
    }
    assert result == (0, 0, 0, 0, "{}")


@pytest.mark.parametrize("vectorize", [False, True])
def test_an_exception_of_the_task_is_the_failure_of_its_device_alone(
    tmp_path: Path,
    vectorize: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    done, _ = perform(worker(tmp_path, vectorize=vectorize, failing=2))
    failures = [number for number, one in enumerate(done.updates) if isinstance(one.result, Failure)]
    assert failures == [2]
    failure = done.updates[2].result
    assert isinstance(failure, Failure)
    assert failure.reason.startswith("task 'blobs' failed: OSError: the sensor is broken")


def test_a_diverged_client_fails_with_the_reason_of_a_device(tmp_path: Path) -> None:
    done, _ = perform(worker(tmp_path), settings={"learning_rate": 3e38, "epochs": 60})
    for one in done.updates:
        assert isinstance(one.result, Failure)
        assert "the training diverged" in one.result.reason


def test_updates_are_encoded_as_the_run_announces(tmp_path: Path) -> None:
    upload = Encoding(kind="int8", difference=True)
    first, _ = perform(worker(tmp_path), upload=upload)
    again, _ = perform(worker(tmp_path), upload=upload)
    plain, _ = perform(worker(tmp_path))
    assert [one.update for one in first.updates] == [one.update for one in again.updates]
    assert b'"I8"' in first.updates[0].update
    assert b'"I8"' not in plain.updates[0].update


def test_error_feedback_is_kept_if_the_update_counted_and_dropped_if_not(tmp_path: Path) -> None:
    own = worker(tmp_path)
    upload = Encoding(kind="top_k", difference=True, fraction=0.1)
    made: dict[bool, bytes] = {}
    for counted in (False, True):
        done, model = perform(own, upload=upload)
        first = announced(model, upload=upload)
        for device in FLEET:
            DeviceState(tmp_path, device.name).settle(first, counted=counted)
        second = announced(model, number=2, upload=upload)
        made[counted] = own.perform(work_for(FLEET[:1], second), {MODEL_KEY: model}).updates[0].update
        assert done.updates[0].update
    assert made[True] != made[False]


def test_scaffolds_control_variates_are_those_of_clients_one_by_one(tmp_path: Path) -> None:
    found: dict[bool, list[ClientUpdate]] = {}
    for vectorize in (False, True):
        folder = tmp_path / str(vectorize)
        own = worker(folder, vectorize=vectorize)
        for number in (1, 2):
            done, model = perform(own, carried={"control": None}, number=number)
            for device in FLEET:
                verdict = announced(model, carried={"control": None}, number=number)
                DeviceState(folder, device.name).settle(verdict, counted=True)
        found[vectorize] = list(done.updates)
    assert distance(found[True], found[False]) < 1e-5  # the control variates are divided by the learning rate


def test_a_missing_object_fails_the_work(tmp_path: Path) -> None:
    own = worker(tmp_path)
    model = own.initial_model(FLEET[0], 0)
    assert isinstance(model, bytes)
    (done,) = own.perform(work_for(FLEET[:1], announced(model)), {}).updates
    assert isinstance(done.result, Failure)
    assert MODEL_KEY in done.result.reason


def test_a_device_trains_on_at_most_its_number_of_examples(tmp_path: Path) -> None:
    fleet = [DeviceConditions(name="few", share=0, examples=9), *FLEET[1:3]]
    done, _ = perform(worker(tmp_path), fleet)
    assert [one.result.examples for one in done.updates if isinstance(one.result, Result)] == [9, 20, 20]

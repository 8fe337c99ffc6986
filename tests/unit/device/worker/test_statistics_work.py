"""A worker answers a query about its task's features, within the device's own policy."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import xxhash

from components.runtime.component_errors import ConfigurationError, WorkFailed
from components.trainer.session.journal import published_result
from components.trainer.tasks.noise import Noise
from components.trainer.tasks.task import Task
from components.trainer.trainer_configuration import parse_configuration
from components.trainer.worker.statistics_work import StatisticsDeclined
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import Result, StatisticsPolicy, WorkOrder
from fedgrass.federation.messages import Announcement
from fedgrass.federation.statistics.statistics_answer import (
    LARGEST_INLINE,
    StatisticsAnswer,
    decode_answer,
    from_text,
)
from fedgrass.federation.statistics.statistics_query import StatisticsQuery
from fedgrass.federation.weights import sha256

KEY = "models/look/0.json"


class Streaming(Noise):
    """A task whose features come in batches."""

    def features(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        for start in range(0, 100, 30):
            yield {"value": np.arange(start, min(start + 30, 100))}


class Without(Noise):
    features = None  # type: ignore[assignment]


class Wrong(Noise):
    def features(self) -> list[int]:  # type: ignore[override]
        return [1, 2]


def order(folder: Path, query: bytes, policy: StatisticsPolicy, digest: str = "") -> WorkOrder:
    announcement = Announcement(
        run="look",
        round=1,
        attempt=1,
        work="statistics",
        task="noise",
        announced_at=1,
        deadline_seconds=60,
        bucket="b",
        model_key=KEY,
        model_sha256=digest or sha256(query),
        model_bytes=len(query),
    )
    update = folder / "updates" / "look-1-1.safetensors"
    return WorkOrder(announcement=announcement, options={}, update=str(update), statistics=policy)


def perform(
    folder: Path,
    policy: StatisticsPolicy | None = None,
    task: Task | None = None,
    query: bytes = b"",
    digest: str = "",
    **asked: Any,
) -> tuple[WorkOrder, Result]:
    query = query or msgspec.json.encode(StatisticsQuery(**asked))
    runner = WorkRunner(lambda _bucket, _key, _size: query)
    runner._tasks["noise"] = ({}, task or Noise())
    work = order(folder, query, policy or StatisticsPolicy(), digest)
    return work, runner.perform(work, lambda _fraction: None, lambda: False)


def answer_in(work: WorkOrder, result: Result) -> StatisticsAnswer:
    data = Path(work.update).read_bytes() if result.bytes else from_text(result.answer)
    assert result.checksum == xxhash.xxh3_128_hexdigest(data)
    return decode_answer(data)


def test_a_small_answer_is_in_the_result_and_leaves_no_file(tmp_path: Path) -> None:
    work, result = perform(tmp_path, statistics=["mean", "labels"])
    assert (result.bytes, result.examples, result.examples_of_task) == (0, 100, 100)
    assert answer_in(work, result).features["value"].count == 100
    assert not Path(work.update).exists()


def test_a_large_answer_is_a_file_that_a_restarted_trainer_can_still_upload(tmp_path: Path) -> None:
    work, result = perform(tmp_path, task=Noise(examples=5000))
    assert result.bytes > LARGEST_INLINE
    assert result.answer == ""
    assert answer_in(work, result).features["value"].count == 5000
    assert published_result(Path(work.update), work.announcement) == result


def test_features_may_come_in_batches(tmp_path: Path) -> None:
    work, result = perform(tmp_path, task=Streaming(), statistics=["mean", "max"])
    found = answer_in(work, result).features["value"]
    assert (found.count, found.largest, result.examples) == (100, 99.0, 100)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (StatisticsPolicy(minimum_examples=101), "fewer examples than its configuration's"),
        (StatisticsPolicy(minimum_devices=20), "this device's statistics.minimum_devices is 20"),
    ],
)
def test_the_policy_of_the_device_declines(tmp_path: Path, policy: StatisticsPolicy, reason: str) -> None:
    with pytest.raises(StatisticsDeclined, match=reason):
        perform(tmp_path, policy)


def test_the_number_of_examples_is_not_in_the_reason_of_a_device_with_too_few(tmp_path: Path) -> None:
    with pytest.raises(StatisticsDeclined) as declined:
        perform(tmp_path, StatisticsPolicy(minimum_examples=5000), task=Noise(examples=77))
    assert not re.search("77|5000", str(declined.value))


def test_the_noise_of_the_device_is_added_whatever_the_query_wants(tmp_path: Path) -> None:
    work, result = perform(tmp_path, StatisticsPolicy(noise=1.0), statistics=["mean", "labels"])
    answer = answer_in(work, result)
    assert answer.noise_scale > 0
    assert answer.features["value"].total is None
    assert "mean" in answer.features["value"].declined


@pytest.mark.parametrize(
    ("task", "query", "reason"),
    [
        (Without(), b"", "task 'noise' has no method features"),
        (Wrong(), b"", "features\\(\\) yielded a int"),
        (Noise(), b'{"bins": "many"}', "query cannot be understood"),
        (Noise(), b'{"of_the_future": 1}', "query cannot be understood"),
    ],
)
def test_what_cannot_be_answered_fails_with_its_reason(
    tmp_path: Path, task: Task, query: bytes, reason: str
) -> None:
    with pytest.raises(WorkFailed, match=reason):
        perform(tmp_path, task=task, query=query)


def test_a_query_with_another_checksum_is_not_answered(tmp_path: Path) -> None:
    with pytest.raises(WorkFailed, match=f"but {'0' * 64} was announced"):
        perform(tmp_path, digest="0" * 64)


def test_the_policy_is_read_from_the_configuration() -> None:
    assert parse_configuration({}).statistics == StatisticsPolicy()
    values = {"statistics": {"allowed": False, "minimum_examples": "100", "noise": None}}
    assert parse_configuration(values).statistics.minimum_examples == 100
    assert not parse_configuration(values).statistics.allowed
    with pytest.raises(ConfigurationError, match="noise is -1"):
        parse_configuration({"statistics": {"noise": -1}})

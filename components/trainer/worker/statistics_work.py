"""Answers a query of federated statistics: computes over the task's features, within the device's policy."""

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import xxhash

from components.runtime.atomic_file import write_unfinished
from components.runtime.component_errors import WorkDeclined, WorkFailed
from components.trainer.tasks.task import StatisticsTask, Task
from components.trainer.worker.worker_protocol import Result, StatisticsPolicy, WorkOrder, id_of
from fedgrass.federation.statistics.data_summary import Batch, DataSummary
from fedgrass.federation.statistics.statistics_answer import (
    LARGEST_ANSWER,
    LARGEST_INLINE,
    StatisticsAnswer,
    encode_answer,
    to_text,
)
from fedgrass.federation.statistics.statistics_query import StatisticsQuery

# Created at import, not on first use: see fedgrass/federation/messages/message_codec.py.
_QUERY = msgspec.json.Decoder(StatisticsQuery)
log = logging.getLogger(__name__)


class StatisticsDeclined(WorkDeclined):
    """The device's configuration does not allow the answer; the text names which part of it."""


def answer_query(work: WorkOrder, task: Task, data: bytes, download_seconds: float) -> Result:
    """Answer the query in ``data``; the result has the answer, or its file is written if it is larger.

    Raises:
        StatisticsDeclined: the policy of the device forbids an answer.
        WorkFailed: the task has no features, or these cannot be used.
    """
    started_at, policy = time.monotonic(), work.statistics
    query = _decode(data)
    _check_policy(policy, query)
    if not isinstance(task, StatisticsTask):
        message = f"task {work.announcement.task!r} has no method features(), which returns its data by name"
        raise WorkFailed(message)
    summary = DataSummary(query, policy.noise)
    for batch in _batches(task.features()):
        summary.add(batch)
    if summary.examples < max(1, policy.minimum_examples):
        message = "this device has fewer examples than its configuration's statistics.minimum_examples"
        raise StatisticsDeclined(message)
    # Seeded by the system: the noise must not be predictable.
    answer = summary.answer(np.random.default_rng())
    result = _written(work, answer)
    log.info("%s: answered statistics of %d features", id_of(work.announcement), len(answer.features))
    return msgspec.structs.replace(
        result,
        examples=summary.examples,
        examples_of_task=task.examples(),
        download_seconds=download_seconds,
        train_seconds=time.monotonic() - started_at,
    )


def _decode(data: bytes) -> StatisticsQuery:
    try:
        return _QUERY.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"the query cannot be understood by this version of the trainer: {error}"
        raise WorkFailed(message) from error


def _check_policy(policy: StatisticsPolicy, query: StatisticsQuery) -> None:
    if query.minimum_devices < policy.minimum_devices:
        message = (
            f"the query is about at least {query.minimum_devices} devices, and this device's"
            f" statistics.minimum_devices is {policy.minimum_devices}"
        )
        raise StatisticsDeclined(message)


def _batches(features: object) -> Iterable[Batch]:
    """Return the batches of what a task returned: one mapping, or an iterable of them."""
    if isinstance(features, Mapping):
        return [features]
    if isinstance(features, Iterable):
        return map(_checked, features)
    message = f"features() returned a {type(features).__name__}: it returns a mapping of names to arrays"
    raise WorkFailed(message)


def _checked(batch: object) -> Batch:
    if not isinstance(batch, Mapping):
        message = f"features() yielded a {type(batch).__name__}: each batch is a mapping of names to arrays"
        raise WorkFailed(message)
    return batch


def _written(work: WorkOrder, answer: StatisticsAnswer) -> Result:
    """Return the result with a small answer, or write a larger one to the file of the update."""
    data = encode_answer(answer)
    size = 0 if len(data) <= LARGEST_INLINE else len(data)
    if size > LARGEST_ANSWER:
        message = f"the answer has {size:,} bytes, of at most {LARGEST_ANSWER:,}: ask for fewer features"
        raise WorkFailed(message)
    checksum = xxhash.xxh3_128_hexdigest(data)
    if size:
        path = Path(work.update)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_unfinished(path, lambda file: file.write(data))
    return Result(
        bytes=size,
        checksum=checksum,
        examples=1,
        examples_of_task=0,
        metrics={},
        download_seconds=0.0,
        evaluate_seconds=0.0,
        answer="" if size else to_text(data),
    )

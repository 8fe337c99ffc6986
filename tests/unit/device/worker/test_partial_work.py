"""A training that was stopped: only runs with ``allow_partial`` get a partial update."""

from pathlib import Path

import pytest

from components.runtime.component_errors import WorkFailed
from components.trainer.tasks.digits import Digits
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import Result, WorkOrder
from fedgrass.federation import weights
from tests.fakes.memory_device import announcement


def test_a_partial_training_fails_its_work_and_writes_no_update(tmp_path: Path) -> None:
    model = weights.encode(Digits(share=0, shares=100).initial_weights(0))
    announced = announcement(
        task="digits",
        model_sha256=weights.sha256(model),
        model_bytes=len(model),
        settings={"batch_size": 4},
    )
    update = tmp_path / "update.safetensors"
    work = WorkOrder(announcement=announced, options={"share": 0, "shares": 100}, update=str(update))
    runner = WorkRunner(lambda _bucket, _key, _size: model)
    answers = iter([False, False])
    with pytest.raises(WorkFailed, match="the training was stopped after 8 examples"):
        runner.perform(work, lambda _: None, lambda: next(answers, True))
    assert not update.exists()
    assert runner.perform(work, lambda _: None, lambda: False).examples == 13
    assert update.exists()


@pytest.mark.parametrize("seen", [2, 0])
def test_a_run_that_takes_parts_gets_the_examples_that_were_seen_or_the_reason_why_there_is_none(
    tmp_path: Path, seen: int
) -> None:
    model = weights.encode(Digits(share=0, shares=100).initial_weights(0))
    announced = announcement(
        task="digits",
        model_sha256=weights.sha256(model),
        model_bytes=len(model),
        settings={"batch_size": 4},
        allow_partial=True,
    )
    update = tmp_path / "update.safetensors"
    work = WorkOrder(announcement=announced, options={"share": 0, "shares": 100}, update=str(update))
    runner = WorkRunner(lambda _bucket, _key, _size: model)
    answers = iter([False] * seen)

    def perform() -> Result:
        return runner.perform(work, lambda _: None, lambda: next(answers, True))

    if not seen:
        with pytest.raises(WorkFailed, match="the training was stopped before its first batch"):
            perform()
        return
    result = perform()
    assert (result.partial, result.examples, result.examples_of_task) == (True, 8, 13)
    trained, begun = weights.decode(update.read_bytes()), weights.decode(model)
    assert any((trained[name] != begun[name]).any() for name in begun)

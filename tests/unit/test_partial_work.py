"""A training that was stopped, as the workshop sees it: a run that does not ask for parts gets none."""

from pathlib import Path

import pytest

from components.trainer.errors import WorkFailed
from components.trainer.tasks.digits import Digits
from components.trainer.worker_protocol import Work
from components.trainer.workshop import Workshop
from fedgrass.federation import weights
from tests.unit.device import announcement


def test_a_partial_training_fails_its_work_and_writes_no_update(tmp_path: Path) -> None:
    model = weights.encode(Digits(share=0, shares=100).initial_weights(0))
    announced = announcement(
        task="digits",
        model_sha256=weights.sha256(model),
        model_bytes=len(model),
        settings={"batch_size": 4},
    )
    update = tmp_path / "update.safetensors"
    work = Work(announcement=announced, options={"share": 0, "shares": 100}, update=str(update))
    workshop = Workshop(lambda _bucket, _key, _size: model)
    answers = iter([False, False])
    with pytest.raises(WorkFailed, match="the training was stopped after 8 examples"):
        workshop.perform(work, lambda _: None, lambda: next(answers, True))
    assert not update.exists()
    assert workshop.perform(work, lambda _: None, lambda: False).examples == 13
    assert update.exists()

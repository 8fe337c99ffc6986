"""An announcement of the noise task, and the model that it starts from."""

from pathlib import Path
from typing import Any

import yaml

from components.trainer.tasks.noise import Noise
from fedgrass.federation import weights
from fedgrass.federation.messages import Announcement

MODEL = weights.encode(Noise(0.1).initial_weights(0))
MODEL_KEY = "models/run-a/0.safetensors"


def announced(bucket: str, number: int = 1, **other: Any) -> Announcement:
    """Return the announcement of round ``number`` to train from ``MODEL``, stored in the bucket."""
    values: dict[str, Any] = {
        "work": "train",
        "task": "noise",
        "announced_at": 1,
        "deadline_seconds": 60,
        "model_key": MODEL_KEY,
        **other,
    }
    return Announcement(
        run="run-a",
        round=number,
        attempt=1,
        bucket=bucket,
        model_sha256=weights.sha256(MODEL),
        model_bytes=len(MODEL),
        **values,
    )


def without_default_tasks(file: Path) -> None:
    """Remove the default tasks from a built recipe: a deployment's null cannot do it on Nucleus Lite."""
    content = yaml.safe_load(file.read_text())
    content["ComponentConfiguration"]["DefaultConfiguration"]["tasks"] = {}
    file.write_text(yaml.safe_dump(content))

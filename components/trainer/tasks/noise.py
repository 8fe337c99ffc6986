"""A task with no real training: for benchmarks and for tests of everything except the training.

Its model has any given size. Each device adds its own small, reproducible change to the model, so that the
updates differ and their average can be checked. Only numpy is required.
"""

import os
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from components.runtime.component_errors import ConfigurationError
from components.trainer.tasks.task import Evaluation, Fit, InputRefused, Predict, Report, Settings, Stop
from fedgrass.federation.weights import Arrays

_BYTES_PER_MEGABYTE = 1_000_000
_BYTES_PER_FLOAT = 4


class Noise:
    """A task whose model consists of two float32 arrays, ``body`` and ``bias``.

    Args:
        megabytes: size of the model; 1 MB is 1,000,000 bytes.
        device: seed of this device's change; the thing name if empty.
        examples: number of examples to report, which is the weight of the device in the mean.
    """

    def __init__(self, megabytes: float | str = 1, device: str = "", examples: int | str = 100) -> None:
        try:
            self._floats = int(float(megabytes) * _BYTES_PER_MEGABYTE / _BYTES_PER_FLOAT)
            self._examples = int(examples)
        except ValueError as error:
            message = f"task 'noise' takes numbers for megabytes and examples: {error}"
            raise ConfigurationError(message) from error
        if self._floats < 1 or self._examples < 1:
            message = f"task 'noise' needs megabytes and examples above 0, not {megabytes} and {examples}"
            raise ConfigurationError(message)
        name = device or os.environ.get("AWS_IOT_THING_NAME", "")
        self._seed = zlib.crc32(name.encode())

    def initial_weights(self, seed: int) -> dict[str, NDArray[np.generic]]:
        """Return standard normal noise, float32 of shape (n,) each; ``bias`` is a hundredth of the model."""
        random = np.random.default_rng(seed)
        bias = max(1, self._floats // 100)
        body = random.standard_normal(max(1, self._floats - bias), dtype=np.float32)
        return {"body": body, "bias": random.standard_normal(bias, dtype=np.float32)}

    def evaluate(self, weights: Arrays) -> Evaluation:
        """Return the mean square of ``bias`` as the loss."""
        return Evaluation(self._examples, {"loss": float(np.mean(np.square(weights["bias"])))})

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:  # noqa: ARG002 - the protocol's signature
        """Add the device's constant, between -0.5 and 0.5, to every value."""
        change = np.random.default_rng(self._seed).random() - 0.5
        trained = {name: np.add(array, change, dtype=np.float32) for name, array in weights.items()}
        report(1.0)
        return Fit(trained, self._examples, {"change": change})

    def examples(self) -> int:
        """Return the number given in the options."""
        return self._examples

    def features(self) -> dict[str, NDArray[np.generic]]:
        """Return as many reproducible numbers as there are examples, with labels from 0 to 3."""
        random = np.random.default_rng(self._seed)
        values = random.normal(random.random(), 1.0, self._examples)
        return {"value": values, "labels": random.integers(0, 4, self._examples)}

    def predictor(self, weights: Arrays) -> Predict:
        """Return a function that adds the mean of ``bias`` to each input, a number."""
        mean = float(np.asarray(weights["bias"], dtype=np.float32).mean())

        def predict(inputs: Sequence[object]) -> list[object]:
            for number, value in enumerate(inputs):
                if isinstance(value, bool) or not isinstance(value, int | float):
                    message = f"inputs[{number}] is {value!r}; the task takes numbers"
                    raise InputRefused(message)
            return [float(value) + mean for value in inputs]  # type: ignore[arg-type] # checked above

        return predict

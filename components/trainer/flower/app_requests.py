"""A round's model and settings as an app expects them in a message from its ServerApp.

The names of a model's arrays are kept. So is their order, as far as a file of weights keeps it: Flower names
the arrays of a list ``0``, ``1``, ``2``, ..., which files may sort as text, and apps that turn the record
back into a list need them in numerical order.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.runtime.component_errors import ConfigurationError
from components.trainer.flower.serialised_arrays import NUMPY, serialised
from components.trainer.tasks.task import Settings
from fedgrass.federation.task_messages.message_content import ArrayEntry, Record
from fedgrass.federation.weights import Arrays

SERVER_ROUND = "server-round"  # of Flower's strategies, in the configuration of each message
# In legacy apps, an on_fit_config_fn passes its argument on, by custom under one of these names.
_LEGACY_ROUNDS = ("server_round", "current_round")


def in_app_order(weights: Arrays) -> dict[str, NDArray[Any]]:
    """Return a model's arrays in the order in which the app had them."""
    if all(name.isascii() and name.isdigit() for name in weights):
        return {name: weights[name] for name in sorted(weights, key=int)}
    return dict(weights)


def check_list(weights: Arrays) -> None:
    """Check that a model can be passed to an app whose parameters are a list.

    Raises:
        ConfigurationError: the names of the arrays do not give their order.
    """
    if list(in_app_order(weights)) != [str(number) for number in range(len(weights))]:
        message = (
            f"the model has arrays named {', '.join(sorted(weights)[:3])}, ..., and the app has a client_fn,"
            " which takes a list: start the run from a model whose arrays are named 0, 1, 2, ... in the app's"
            " order, as `fedgrass flower initial-model` writes it"
        )
        raise ConfigurationError(message)


class SerialisedModels:
    """The latest model in serialised form, since a round passes one model to the app twice."""

    def __init__(self) -> None:
        self._model: Arrays = {}
        self._data: Mapping[str, bytes] = {}

    def of(self, weights: Arrays) -> Mapping[str, bytes]:
        """Return the serialised arrays of a model by name, in the app's order."""
        if weights is not self._model or not weights:
            self.keep(weights, {name: serialised(array) for name, array in in_app_order(weights).items()})
        return self._data

    def keep(self, weights: Arrays, data: Mapping[str, bytes]) -> None:
        """Keep the serialised arrays of a model until another one is asked for.

        Args:
            weights: the model, which is not changed any more.
            data: its serialised arrays by name, in the app's order.
        """
        self._model, self._data = weights, data

    def clear(self) -> None:
        """Free the memory."""
        self._model, self._data = {}, {}


def entries_of(weights: Arrays, data: Mapping[str, bytes]) -> tuple[ArrayEntry, ...]:
    """Return what describes a model's serialised arrays in a record."""
    return tuple(
        ArrayEntry(
            name=name,
            dtype=str(np.asarray(weights[name]).dtype),
            shape=weights[name].shape,
            stype=NUMPY,
            bytes=len(each),
        )
        for name, each in data.items()
    )


def request_records(
    arrays: tuple[str, Sequence[ArrayEntry]], config: tuple[str, Mapping[str, object]]
) -> list[Record]:
    """Return the records of a message of training or evaluation.

    Args:
        arrays: key and arrays of the model.
        config: key and values of the configuration.
    """
    return [
        Record(name=arrays[0], kind="arrays", arrays=tuple(arrays[1])),
        Record(name=config[0], kind="config", values=dict(config[1])),
    ]


def app_config(settings: Settings, number: int, *, is_legacy: bool) -> dict[str, bool | int | float | str]:
    """Return the configuration in a message: the run's settings of the training, and the round."""
    legacy = dict.fromkeys(_LEGACY_ROUNDS, number) if is_legacy else {}
    return {**legacy, **settings, SERVER_ROUND: number}

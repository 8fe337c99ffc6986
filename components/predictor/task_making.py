"""The configured tasks, made: with their data, on which new models are judged."""

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from components.predictor.configuration import Configuration, Options
from components.predictor.errors import ConfigurationError
from components.trainer.tasks.registry import is_current, load_task
from components.trainer.tasks.task import PredictingTask
from fedgrass.federation.errors import FedgrassError

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
Tasks = Mapping[str, PredictingTask]
NONE: Tasks = MappingProxyType({})


def make_tasks(
    configuration: Configuration, former: Configuration | None = None, made: Tasks = NONE
) -> Tasks:
    """Return the configured tasks; those that ``made`` has with the same options and files come from there.

    Args:
        configuration: as it is to be.
        former: as it was when ``made`` were made.
        made: the tasks so far.

    Raises:
        ConfigurationError: one cannot be made, or cannot predict.
    """
    # The numerical libraries read these as they are imported.
    os.environ.update(dict.fromkeys(THREADS, str(configuration.threads)))
    before = former.tasks if former else {}
    return {
        name: made[name]
        if name in made and before.get(name) == options and is_current(name)
        else _make(name, options)
        for name, options in configuration.tasks.items()
    }


def _make(name: str, options: Options) -> PredictingTask:
    try:
        task = load_task(name, options)
    except FedgrassError as error:
        raise ConfigurationError(str(error)) from error
    except (Exception, SystemExit) as error:
        message = f"the task {name!r} cannot be made: {type(error).__name__}: {error}"
        raise ConfigurationError(message) from error
    if not hasattr(task, "predictor"):
        message = (
            f"the task {name!r} cannot predict: its class needs a method predictor(weights) that returns"
            " a function of inputs (docs/predictor.md)"
        )
        raise ConfigurationError(message)
    return cast("PredictingTask", task)

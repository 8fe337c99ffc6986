"""The evaluation of a device's own model, once it is trained: how both sides spell it."""

from collections.abc import Collection

from fedgrass.federation.message_fields import Options

SETTING = "local_evaluation"  # of a run's training; on unless that says false
PREFIX = "local_"  # of the metrics of a device's own model; without it they are the global model's


def is_wanted(training: Options) -> bool:
    """Return whether devices are to evaluate what they trained."""
    return training.get(SETTING, True) is not False


def of_the_global_model(names: Collection[str]) -> set[str]:
    """Return the names of metrics without those that say of the device's own model what others do."""
    return {name for name in names if name.removeprefix(PREFIX) == name or name[len(PREFIX) :] not in names}


def of_the_task(training: Options) -> Options:
    """Return the training settings that are the task's own: all but this one."""
    return {name: value for name, value in training.items() if name != SETTING}

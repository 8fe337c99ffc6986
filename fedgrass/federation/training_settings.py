"""The settings of a run that are passed to the devices' training.

They have to fit an announcement and the run's aggregation strategy. All belong to the task except
``local_evaluation``: whether a device also evaluates its own model after training.
"""

import re
from collections.abc import Collection, Iterator, Mapping

import msgspec

from fedgrass.federation.conversion import shown, shown_key
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import Options

_LOCAL_EVALUATION = "local_evaluation"  # a setting of `training`; true unless set to false
LOCAL_PREFIX = "local_"  # of metrics of a device's own model; metrics without it are of the global model


def wants_local_evaluation(training: Options) -> bool:
    """Return whether devices evaluate their own model after training."""
    return training.get(_LOCAL_EVALUATION, True) is not False


def without_local_metrics(names: Collection[str]) -> set[str]:
    """Drop local metrics whose global counterpart is present."""
    return {
        name
        for name in names
        if name.removeprefix(LOCAL_PREFIX) == name or name[len(LOCAL_PREFIX) :] not in names
    }


def task_settings(training: Options) -> Options:
    """Return the training settings for the task: all except ``local_evaluation``."""
    return {name: value for name, value in training.items() if name != _LOCAL_EVALUATION}


def check_sendable(training: Options, by_round: Mapping[str, Options]) -> None:
    """Check that rounds are numbers, and that an announcement's JSON can express every setting.

    Raises:
        SettingsError: The message names the field and the value.
    """
    for number in by_round:
        if not re.fullmatch(r"[1-9][0-9]{0,5}", number):
            message = f"the run's training_by_round has the round {shown(number)}; rounds are numbered from 1"
            raise SettingsError(message)
    for place, options in _places(training, by_round):
        evaluated = options.get(_LOCAL_EVALUATION, True)
        if not isinstance(evaluated, bool):
            message = f"the run's {place}.{_LOCAL_EVALUATION} is {shown(evaluated)}: it takes true or false"
            raise SettingsError(message)
        for name, value in options.items():
            _check_option(f"{place}.{shown_key(name)}", name, value)


def not_plain(
    strategy: str, without: Collection[str], training: Options, by_round: Mapping[str, Options]
) -> Iterator[str]:
    """Yield a message on each setting that must be 0 with a strategy that needs plain gradient steps."""
    for place, options in _places(training, by_round):
        for name in without:
            if value := options.get(name):
                yield (
                    f"the run's {place}.{name} is {shown(value)}; the aggregation {strategy!r} needs plain"
                    " gradient steps: leave it out, or set it to 0"
                )


def _places(training: Options, by_round: Mapping[str, Options]) -> Iterator[tuple[str, Options]]:
    yield "training", training
    for number, options in by_round.items():
        yield f"training_by_round.{number}", options


def _check_option(place: str, name: str, value: object) -> None:
    try:
        msgspec.json.decode(msgspec.json.encode({name: value}), type=Options)
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        message = (
            f"the run's {place} is {shown(value)}: it takes a finite number, a Unicode text, or true or false"
        )
        raise SettingsError(message) from error

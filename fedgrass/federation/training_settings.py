"""The settings of a run that go to the devices' training.

They have to fit an announcement and the run's aggregation strategy. One of them, ``local_evaluation``, is
not the task's own: whether a device also evaluates its own model after training.
"""

import re
from collections.abc import Collection, Iterator, Mapping

import msgspec

from fedgrass.federation.conversion import key_shown, shown
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import Options

LOCAL_EVALUATION = "local_evaluation"  # of a run's training; on unless that says false
LOCAL_PREFIX = "local_"  # of the metrics of a device's own model; without it they are the global model's


def wants_local_evaluation(training: Options) -> bool:
    """Return whether devices are to evaluate what they trained."""
    return training.get(LOCAL_EVALUATION, True) is not False


def without_local_metrics(names: Collection[str]) -> set[str]:
    """Return the names of metrics without those that say of the device's own model what others do."""
    return {
        name
        for name in names
        if name.removeprefix(LOCAL_PREFIX) == name or name[len(LOCAL_PREFIX) :] not in names
    }


def task_settings(training: Options) -> Options:
    """Return the training settings that are the task's own: all but this one."""
    return {name: value for name, value in training.items() if name != LOCAL_EVALUATION}


def check_sendable(training: Options, by_round: Mapping[str, Options]) -> None:
    """Check that the rounds are numbers, and that JSON can express what an announcement has to carry.

    Raises:
        SettingsError: the text names the field and the value.
    """
    for number in by_round:
        if not re.fullmatch(r"[1-9][0-9]{0,5}", number):
            message = f"the run's training_by_round has the round {shown(number)}; rounds are numbered from 1"
            raise SettingsError(message)
    for place, options in _places(training, by_round):
        own = options.get(LOCAL_EVALUATION, True)
        if not isinstance(own, bool):
            message = f"the run's {place}.{LOCAL_EVALUATION} is {shown(own)}: it takes true or false"
            raise SettingsError(message)
        for name, value in options.items():
            _check_option(f"{place}.{key_shown(name)}", name, value)


def not_plain(
    strategy: str, without: Collection[str], training: Options, by_round: Mapping[str, Options]
) -> Iterator[str]:
    """Yield what every device would refuse: settings ``without`` which the strategy's method is another."""
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
            f"the run's {place} is {shown(value)}: it takes a finite number, a text of Unicode, or true or"
            " false"
        )
        raise SettingsError(message) from error

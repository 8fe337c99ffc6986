"""What a run says to the devices' training: whether it can be sent, and whether the strategy stands it."""

import re
from collections.abc import Collection, Iterator, Mapping

import msgspec

from fedgrass.federation import local_evaluation
from fedgrass.federation.conversion import key_shown, shown
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.message_fields import Options


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
        own = options.get(local_evaluation.SETTING, True)
        if not isinstance(own, bool):
            message = f"the run's {place}.{local_evaluation.SETTING} is {shown(own)}: it takes true or false"
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

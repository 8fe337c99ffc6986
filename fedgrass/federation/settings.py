"""The settings of a run: what the operator may choose, checked before anything starts."""

import math
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from fedgrass.federation.aggregation import AGGREGATORS
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import Options, TaskName
from fedgrass.federation.names import checked_name
from fedgrass.federation.selection import SELECTIONS

Share = Annotated[float, Meta(gt=0, le=1)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]

LARGEST_TRAINING = 3000  # bytes, of JSON: the announcement that carries it has at most 4,096


class RunSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run does. Stored with the run; the meaning of each is in docs/settings.md."""

    task: TaskName
    rounds: Annotated[int, Meta(ge=1, le=100_000)] = 5
    selection: str = "all"
    fraction: Share = 1.0  # of the candidates; `all` asks everybody and ignores it
    threshold: Share = 1.0  # of the devices asked: so many replies close a round before its deadline
    minimum_replies: Count = 1  # fewer at the deadline abandon the round
    deadline_seconds: Annotated[int, Meta(ge=5, le=7 * 24 * 3600)] = 600
    aggregation: str = "weighted_mean"
    on_abandoned: Literal["retry", "fail"] = "retry"
    attempts: Annotated[int, Meta(ge=1, le=100)] = 3  # at one round, before the run fails
    # A device that said nothing for longer is no candidate.
    seen_within_seconds: Annotated[int, Meta(ge=1, le=366 * 24 * 3600)] = 300
    training: Options = {}  # handed to the device's training as it is

    def cohort(self, candidates: int) -> int:
        """Return how many of ``candidates`` devices a round asks: max(int(n * fraction), 1)."""
        return candidates if self.selection == "all" else max(int(candidates * self.fraction), 1)

    def replies_needed(self, asked: int) -> int:
        """Return how many replies close a round that asked ``asked`` devices, deadline or not.

        At least one and at most ``asked``; rounded up, and compared with >=, so that a fraction that is no
        exact float can never make a round wait for ever.
        """
        return min(asked, max(1, self.minimum_replies, math.ceil(round(self.threshold * asked, 9))))


_CHOICES: Mapping[str, Collection[str]] = {
    "selection": SELECTIONS,
    "aggregation": AGGREGATORS,
    "on_abandoned": ("retry", "fail"),
}


def parse_settings(values: object) -> RunSettings:
    """Return the settings that ``values``, a decoded JSON object, describes.

    Raises:
        SettingsError: a field is unknown, missing, of the wrong type or out of its range; the text names the
            field and what it may be.
    """
    if isinstance(values, Mapping):
        _check_words(values)
    try:
        settings = msgspec.convert(values, RunSettings)
    except msgspec.ValidationError as error:
        message = f"the run's settings cannot be used: {error}"
        raise SettingsError(message) from error
    _check_training(settings.training)
    return settings


def _check_words(values: Mapping[Any, object]) -> None:
    """Check the words among the settings, in plainer language than the patterns of their types."""
    task = values.get("task")
    if isinstance(task, str):
        checked_name("task", task)
    for field, choices in _CHOICES.items():
        value = values.get(field)
        if isinstance(value, str) and value not in choices:
            message = f"the run's {field} is {value!r}; it may be one of: {', '.join(sorted(choices))}"
            raise SettingsError(message)


def _check_training(options: Options) -> None:
    """Check that the announcements can carry the options, and that JSON can express them."""
    try:
        text = msgspec.json.encode(options)
        msgspec.json.decode(text, type=Options)
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        message = f"the run's training {options!r} cannot be sent; it takes finite numbers, texts, booleans"
        raise SettingsError(message) from error
    if len(text) > LARGEST_TRAINING:
        message = f"the run's training has {len(text)} bytes of JSON; {LARGEST_TRAINING} is the most"
        raise SettingsError(message)

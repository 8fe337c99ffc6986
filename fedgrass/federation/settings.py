"""The settings of a run: what the operator may choose, validated before anything starts.

``RunSettings`` declares each field with its range. ``parse_settings`` also checks what no single field can
express: options of strategies, sizes, and settings that contradict each other.
"""

import math
from collections.abc import Collection, Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from fedgrass.federation import aggregation
from fedgrass.federation.aggregation import STRATEGIES
from fedgrass.federation.conversion import convert, shown
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.alarms import LONGEST_REMINDER
from fedgrass.federation.messages.message_fields import (
    MOST_OPTIONS,
    RULES,
    THING_NAME,
    Options,
    StrategyOptions,
    TaskName,
)
from fedgrass.federation.messages.message_types import Encoding, Fraction, Kind, ModelKind
from fedgrass.federation.round_metrics import TargetBy
from fedgrass.federation.selection import SELECTIONS, strategy
from fedgrass.federation.selection.attribute_conditions import parse_expression
from fedgrass.federation.strategy_registry import CUSTOM_STRATEGY
from fedgrass.federation.training_settings import check_sendable, not_plain

Share = Annotated[float, Meta(gt=0, le=1)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
ThingGroupName = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9:_-]{0,128}\Z", description="at most 128 letters, digits, ':', '_' or '-'")
]
ThingName = Annotated[str, Meta(pattern=THING_NAME, description=RULES["thing"][1])]


def _one_of(names: Collection[str]) -> Meta:
    """Return the constraint that a text is one of ``names``."""
    return Meta(pattern=rf"^({'|'.join(names)})\Z", description=f"one of: {', '.join(sorted(names))}")


SelectionName = Annotated[str, _one_of(SELECTIONS)]
AggregationName = Annotated[
    str,
    Meta(
        pattern=rf"^({'|'.join(STRATEGIES)}|{CUSTOM_STRATEGY.pattern})\Z",
        max_length=128,
        description=f"one of: {', '.join(sorted(STRATEGIES))}; or one of your own, as module:Class",
    ),
]

TrainingByRound = Annotated[
    dict[str, Options], Meta(description="an object of round numbers, each with an object as for training")
]

LARGEST_TRAINING = 3000  # bytes of JSON: the announcement that carries it has at most 4,096
LARGEST_SETTINGS = 100 * 1024  # bytes of JSON: they are stored in the run's row, and DynamoDB allows 400 KB


class RunSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run does. Stored with the run; docs/settings.md explains each setting."""

    task: TaskName
    rounds: Annotated[int, Meta(ge=1, le=100_000)] = 5
    selection: SelectionName = "all"
    # How many devices a round wants: a fraction of the candidates or a count; `all` asks every candidate.
    fraction: Share | None = None
    count: Count | None = None
    selection_options: StrategyOptions = {}  # of the strategy; see docs/selection.md
    minimum_examples: Annotated[int, Meta(ge=0, le=2**53)] = 0
    where: Annotated[str, Meta(max_length=1000)] = ""  # on attributes in heartbeats: "version >= '1.2'"
    thing_group: ThingGroupName = ""  # of AWS IoT: only its things are asked
    # Rounds for which a device that was asked is left alone.
    cool_down_rounds: Annotated[int, Meta(ge=0, le=1000)] = 0
    over_selection: Annotated[float, Meta(ge=1, le=10)] = 1.0  # factor of devices asked, against stragglers
    # How many replies close a round before its deadline: a fraction of the wanted devices or a count.
    threshold: Share | None = None
    threshold_count: Count | None = None
    minimum_replies: Count = 1  # fewer at the deadline abandon the round
    # An announcement not accepted within this time is repeated, then given to another device; 0: never.
    accept_seconds: Annotated[int, Meta(ge=0, le=LONGEST_REMINDER)] = 60
    deadline_seconds: Annotated[int, Meta(ge=5, le=7 * 24 * 3600)] = 600
    allow_partial: bool = False  # count trainings cut short by the deadline, by the examples they saw
    aggregation: AggregationName = "weighted_mean"
    aggregation_options: StrategyOptions = {}  # of the strategy; see docs/aggregation.md
    aggregation_seconds: Annotated[float, Meta(ge=0.1, le=600)] = 60.0  # limit per call of a custom strategy
    clip_norm: Annotated[float, Meta(gt=0)] | None = None  # longer changes are scaled down to this norm
    largest_norm: Annotated[float, Meta(gt=0)] | None = None  # longer changes are refused
    # A device's examples count up to this multiple of the cohort's median claim; 0: without limit.
    examples_cap: Annotated[float, Meta(ge=0, le=1_000_000)] = 3.0
    # How the model's float32 arrays are encoded for transfer; see docs/encodings.md.
    upload_encoding: Kind = "float32"
    upload_difference: bool = False  # send the change made by training, not the trained weights
    top_k_fraction: Fraction = 0.01
    download_encoding: ModelKind = "float32"
    on_abandoned: Literal["retry", "fail"] = "retry"
    attempts: Annotated[int, Meta(ge=1, le=100)] = 3  # at one round, before the run fails
    # Devices without a heartbeat for longer than this are not candidates.
    seen_within_seconds: Annotated[int, Meta(ge=1, le=366 * 24 * 3600)] = 300
    training: Options = {}  # passed to the devices' training unchanged
    training_by_round: TrainingByRound = {}  # overrides `training` from the round with that number on
    # After this number of training rounds the model is evaluated: by the devices in `held_out`, which never
    # train, by a share of all devices, or by a count of devices. 0: never.
    evaluate_every: Annotated[int, Meta(ge=0, le=100_000)] = 0
    evaluate_last: bool = True  # also the last model, which no further round of training measures
    evaluate_fraction: Share = 1.0
    evaluate_count: Count | None = None
    held_out: list[ThingName] = []
    schedule: Literal["at_once", "every", "adaptive", "by_hand"] = "at_once"
    every_minutes: Annotated[float, Meta(ge=0, le=7 * 24 * 60)] = 0.0
    # The run ends when a metric that devices report of the global model reaches a value, or has not improved
    # for `patience` rounds.
    target_metric: Annotated[str, Meta(max_length=64)] = ""
    target_value: float | None = None
    lower_is_better: bool = False
    target_by: TargetBy = "trimmed_mean"  # how the devices' reports are combined into one value
    patience: Annotated[int, Meta(ge=0, le=100_000)] = 0
    smallest_improvement: Annotated[float, Meta(ge=0)] = 0.0

    @property
    def upload(self) -> Encoding:
        """The encoding of the devices' updates."""
        fraction = self.top_k_fraction if self.upload_encoding == "top_k" else Encoding().fraction
        return Encoding(kind=self.upload_encoding, difference=self.upload_difference, fraction=fraction)

    @property
    def download(self) -> Encoding:
        """The encoding of the model that devices download."""
        return Encoding(kind=self.download_encoding)

    @property
    def evaluators(self) -> tuple[int | None, float]:
        """How many devices evaluate a model: a count, or else a share of the candidates.

        If no setting chooses them, the last model is evaluated by the number of devices that train in a
        round: a run over a hundred of a million devices must not end with a million downloads.
        """
        if self.evaluate_count is None and self.evaluate_fraction == 1 and not self.evaluate_every:
            return self.count, self.fraction or 1.0
        return self.evaluate_count, self.evaluate_fraction

    def cohort(self, candidates: int) -> int:
        """Return how many devices a round wants: ``count``, or max(int(candidates * fraction), 1)."""
        if self.selection == "all":
            return candidates
        if self.count is not None:
            return min(self.count, candidates)
        return max(int(candidates * (self.fraction or 1.0)), 1)

    def asked(self, wanted: int, candidates: int) -> int:
        """Return how many devices are asked so that ``wanted`` of them reply in time."""
        return min(candidates, math.ceil(round(wanted * self.over_selection, 9)))

    def replies_needed(self, wanted: int) -> int:
        """Return how many replies close a round that wants ``wanted`` devices, before or at the deadline.

        At least one and at most ``wanted``; rounded up after removing floating-point noise, so that a
        fraction without an exact representation can never make a round wait indefinitely.
        """
        share = math.ceil(round((self.threshold or 1.0) * wanted, 9))
        chosen = self.threshold_count if self.threshold_count is not None else share
        return min(wanted, max(1, self.minimum_replies, chosen))

    def training_of(self, number: int, needs: Options | None = None) -> Options:
        """Return the training settings of round ``number``: the strategy's needs, overridden by the run's.

        ``needs`` are those of a custom strategy, which only the cloud functions can import.
        """
        chosen: Options = dict(needs or {})
        if built_in := aggregation.strategy(self.aggregation, self.aggregation_options):
            chosen.update(built_in.training())
        chosen.update(self.training)
        for first in sorted(self.training_by_round, key=int):
            if int(first) <= number:
                chosen.update(self.training_by_round[first])
        return chosen


def parse_settings(values: object) -> RunSettings:
    """Return the settings that ``values``, a decoded JSON object, describes.

    Raises:
        SettingsError: A field is unknown, missing, of the wrong type or out of its range, or contradicts
            another one; the message names the field and what it accepts.
    """
    settings = convert(values, RunSettings, whole="the run's settings", part="the run's ")
    strategy(settings.selection, settings.selection_options)
    aggregation.strategy(settings.aggregation, settings.aggregation_options)
    if settings.where:
        parse_expression(settings.where)
    check_sendable(settings.training, settings.training_by_round)
    check_training(settings)
    for complaint in _contradictions(settings):
        raise SettingsError(complaint)
    _check_size(settings)
    return settings


def _check_size(settings: RunSettings) -> None:
    """Check that the settings fit into the run's row, next to everything else that it stores."""
    size = len(msgspec.json.encode(settings))
    if size > LARGEST_SETTINGS:
        sizes = {
            field: len(msgspec.json.encode(value))
            for field, value in msgspec.structs.asdict(settings).items()
        }
        largest = max(sizes, key=lambda field: sizes[field])
        message = (
            f"the run's settings have {size:,} bytes of JSON, its {largest} alone {sizes[largest]:,};"
            f" at most {LARGEST_SETTINGS:,} are allowed"
        )
        raise SettingsError(message)


def check_training(settings: RunSettings, needs: Options | None = None) -> None:
    """Check that the training settings of every round, including the strategy's, fit into an announcement.

    Raises:
        SettingsError: They do not; the message names the round.
    """
    including = f" with what the aggregation {settings.aggregation!r} adds" if needs else ""
    for number in ("1", *settings.training_by_round):
        chosen = settings.training_of(int(number), needs)
        if (length := len(msgspec.json.encode(chosen))) > LARGEST_TRAINING:
            message = (
                f"the run's training and training_by_round{including} have {length:,} bytes of JSON in round"
                f" {number}; at most {LARGEST_TRAINING:,} are allowed"
            )
            raise SettingsError(message)
        if len(chosen) > MOST_OPTIONS:
            message = (
                f"the run's training and training_by_round{including} have {len(chosen)} settings in round"
                f" {number}; at most {MOST_OPTIONS} are allowed"
            )
            raise SettingsError(message)


def _contradictions(settings: RunSettings) -> Iterator[str]:
    """Yield a message on each contradiction, naming the fields."""
    yield from _cohort_contradictions(settings)
    if settings.upload_encoding == "top_k" and not settings.upload_difference:
        yield (
            "the run's upload_encoding is 'top_k', which sends the largest changes: set upload_difference to"
            " true, or choose another upload_encoding"
        )
    yield from _aggregation_contradictions(settings)
    yield from _evaluation_contradictions(settings)
    if settings.schedule == "every" and not settings.every_minutes:
        yield "the run's schedule is 'every': set every_minutes to the number of minutes"
    finite = ("target_value", "smallest_improvement", "clip_norm", "largest_norm", "aggregation_seconds")
    for field in (*finite, "examples_cap"):
        value = getattr(settings, field)
        if value is not None and not math.isfinite(value):
            yield f"the run's {field} is {value}: it takes a finite number"
    for option, value in settings.aggregation_options.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield f"the run's aggregation_options.{option} is {value}: it takes a finite number"
    if settings.every_minutes and settings.schedule in {"at_once", "by_hand"}:
        yield (
            f"the run's every_minutes is {settings.every_minutes:g}, but its schedule is"
            f" {settings.schedule!r}: set schedule to 'every' or 'adaptive', or leave every_minutes out"
        )
    metric_fields = {
        "target_value": None,
        "patience": 0,
        "smallest_improvement": 0.0,
        "lower_is_better": False,
        "target_by": "trimmed_mean",
    }
    for field, unset in metric_fields.items():
        if (value := getattr(settings, field)) != unset and not settings.target_metric:
            named = str(value).lower() if isinstance(value, bool) else value
            yield f"the run's {field} is {named}: name the metric in target_metric, such as 'accuracy'"


def _aggregation_contradictions(settings: RunSettings) -> Iterator[str]:
    chosen = aggregation.strategy(settings.aggregation, settings.aggregation_options)
    without = chosen.without if chosen else ()
    yield from not_plain(settings.aggregation, without, settings.training, settings.training_by_round)
    if 0 < settings.examples_cap < 1:
        yield (
            f"the run's examples_cap is {settings.examples_cap:g}: it takes 1 or more times the median of the"
            " round's claims, or 0 for no cap"
        )


def _cohort_contradictions(settings: RunSettings) -> Iterator[str]:
    if settings.fraction is not None and settings.count is not None:
        yield f"the run has both fraction {settings.fraction} and count {settings.count}: give one of them"
    for field in ("fraction", "count"):
        if settings.selection == "all" and (value := getattr(settings, field)) is not None:
            yield (
                f"the run's {field} is {value}, but its selection 'all' asks every device: leave {field} out,"
                " or choose 'random'"
            )
    if settings.threshold is not None and settings.threshold_count is not None:
        yield (
            f"the run has both threshold {settings.threshold} and"
            f" threshold_count {settings.threshold_count}: give one of them"
        )
    for field in ("threshold_count", "minimum_replies"):
        value = getattr(settings, field)
        if value is not None and settings.count is not None and value > settings.count:
            yield f"the run's {field} is {value}, above its cohort of {settings.count} (count)"


def _evaluation_contradictions(settings: RunSettings) -> Iterator[str]:
    given = {}
    for field, unset in (("held_out", []), ("evaluate_count", None), ("evaluate_fraction", 1.0)):
        if (value := getattr(settings, field)) != unset:
            given[field] = shown(value)
    if given and not settings.evaluate_every and not settings.evaluate_last:
        field, value = next(iter(given.items()))
        yield (
            f"the run's {field} is {value}, which chooses who evaluates, but no model is evaluated: set"
            " evaluate_every, or evaluate_last to true"
        )
    if len(given) > 1:
        both = " and ".join(f"{field} {value}" for field, value in given.items())
        yield f"the run has both {both}, which choose who evaluates: give one of them"

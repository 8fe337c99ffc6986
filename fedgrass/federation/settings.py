"""The settings of a run: what the operator may choose, checked before anything starts."""

import math
from collections.abc import Collection, Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from fedgrass.federation import aggregation
from fedgrass.federation.aggregation import OWN, STRATEGIES
from fedgrass.federation.conversion import convert, shown
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.alarms import LONGEST_REMINDER
from fedgrass.federation.messages.encoding_settings import Encoding, Fraction, Kind, ModelKind
from fedgrass.federation.messages.message_fields import MOST_OPTIONS, Options, TaskName
from fedgrass.federation.names import RULES, THING_NAME
from fedgrass.federation.round_metrics import TargetBy
from fedgrass.federation.selection import SELECTIONS, strategy
from fedgrass.federation.selection.attribute_conditions import parse_expression
from fedgrass.federation.training_settings import check_sendable, not_plain

Share = Annotated[float, Meta(gt=0, le=1)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
ThingGroupName = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9:_-]{0,128}\Z", description="at most 128 letters, digits, ':', '_' or '-'")
]
ThingName = Annotated[str, Meta(pattern=THING_NAME, description=RULES["thing"][1])]


def _one_of(names: Collection[str]) -> Meta:
    """Return the bounds of a text that is one of the names in a table."""
    return Meta(pattern=rf"^({'|'.join(names)})\Z", description=f"one of: {', '.join(sorted(names))}")


SelectionName = Annotated[str, _one_of(SELECTIONS)]
AggregationName = Annotated[
    str,
    Meta(
        pattern=rf"^({'|'.join(STRATEGIES)}|{OWN.pattern})\Z",
        max_length=128,
        description=f"one of: {', '.join(sorted(STRATEGIES))}; or one of your own, as module:Class",
    ),
]

TrainingByRound = Annotated[
    dict[str, Options], Meta(description="an object of round numbers, each with an object as for training")
]

LARGEST_TRAINING = 3000  # bytes, of JSON: the announcement that carries it has at most 4,096
LARGEST_SETTINGS = (
    100 * 1024
)  # bytes, of JSON: they are in the row of the run, and a row of DynamoDB has 400 KB


class RunSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run does. Stored with the run; the meaning of each is in docs/settings.md."""

    task: TaskName
    rounds: Annotated[int, Meta(ge=1, le=100_000)] = 5
    selection: SelectionName = "all"
    # How many devices a round wants: a fraction of the candidates or a count; `all` asks everybody.
    fraction: Share | None = None
    count: Count | None = None
    selection_options: dict[str, bool | int | float | str] = {}  # of the strategy; docs/selection.md has them
    minimum_examples: Annotated[int, Meta(ge=0, le=2**53)] = 0
    where: Annotated[str, Meta(max_length=1000)] = ""  # of the heartbeat's attributes: "version >= '1.2'"
    thing_group: ThingGroupName = ""  # of AWS IoT: only its things are asked
    cool_down_rounds: Annotated[int, Meta(ge=0, le=1000)] = 0  # a device is not asked again for so many
    over_selection: Annotated[float, Meta(ge=1, le=10)] = 1.0  # so many are asked, against stragglers
    # How many replies close a round before its deadline: a fraction of the wanted devices or a count.
    threshold: Share | None = None
    threshold_count: Count | None = None
    minimum_replies: Count = 1  # fewer at the deadline abandon the round
    # An announcement that is not accepted so soon is repeated, then given to another device; 0: never.
    accept_seconds: Annotated[int, Meta(ge=0, le=LONGEST_REMINDER)] = 60
    deadline_seconds: Annotated[int, Meta(ge=5, le=7 * 24 * 3600)] = 600
    allow_partial: bool = False  # a training that the deadline cuts short counts, by the examples it saw
    aggregation: AggregationName = "weighted_mean"
    aggregation_options: dict[str, bool | int | float | str] = {}  # of the strategy; docs/aggregation.md
    aggregation_seconds: Annotated[float, Meta(ge=0.1, le=600)] = 60.0  # for a call of one's own strategy
    clip_norm: Annotated[float, Meta(gt=0)] | None = None  # a longer change of an update is shortened to it
    largest_norm: Annotated[float, Meta(gt=0)] | None = None  # a longer one is refused
    # A device's examples count up to this multiple of the median of the cohort's claims; 0: as it claims.
    examples_cap: Annotated[float, Meta(ge=0, le=1_000_000)] = 3.0
    # What the wire carries of the model's float32 arrays; docs/encodings.md has them.
    upload_encoding: Kind = "float32"
    upload_difference: bool = False  # what training changed is sent, and not the trained weights
    top_k_fraction: Fraction = 0.01
    download_encoding: ModelKind = "float32"
    on_abandoned: Literal["retry", "fail"] = "retry"
    attempts: Annotated[int, Meta(ge=1, le=100)] = 3  # at one round, before the run fails
    # A device that said nothing for longer is no candidate.
    seen_within_seconds: Annotated[int, Meta(ge=1, le=366 * 24 * 3600)] = 300
    training: Options = {}  # handed to the device's training as it is
    training_by_round: TrainingByRound = {}  # over `training`, from the round of that number on
    # After every so many rounds the model is only evaluated: by the devices of `held_out`, which never train,
    # by a share of all, or by a number of devices. 0: never.
    evaluate_every: Annotated[int, Meta(ge=0, le=100_000)] = 0
    evaluate_last: bool = True  # the last model too, which no round of training measures any more
    evaluate_fraction: Share = 1.0
    evaluate_count: Count | None = None
    held_out: list[ThingName] = []
    schedule: Literal["at_once", "every", "adaptive", "by_hand"] = "at_once"
    every_minutes: Annotated[float, Meta(ge=0, le=7 * 24 * 60)] = 0.0
    # The run ends when a metric that devices report of the global model reaches a value, or when it has not
    # got better for so many rounds.
    target_metric: Annotated[str, Meta(max_length=64)] = ""
    target_value: float | None = None
    lower_is_better: bool = False
    target_by: TargetBy = "trimmed_mean"  # of the devices' reports: how the metric is judged
    patience: Annotated[int, Meta(ge=0, le=100_000)] = 0
    smallest_improvement: Annotated[float, Meta(ge=0)] = 0.0

    @property
    def upload(self) -> Encoding:
        """How devices encode their updates."""
        fraction = self.top_k_fraction if self.upload_encoding == "top_k" else Encoding().fraction
        return Encoding(kind=self.upload_encoding, difference=self.upload_difference, fraction=fraction)

    @property
    def download(self) -> Encoding:
        """How the model is encoded that devices download."""
        return Encoding(kind=self.download_encoding)

    @property
    def evaluators(self) -> tuple[int | None, float]:
        """How many devices evaluate a model: a count, or else a share of the candidates.

        If no setting chooses them, the last model is evaluated by as many devices as train in a round: a run
        over a hundred of a million devices must not end with a million downloads.
        """
        if self.evaluate_count is None and self.evaluate_fraction == 1 and not self.evaluate_every:
            return self.count, self.fraction or 1.0
        return self.evaluate_count, self.evaluate_fraction

    def cohort(self, candidates: int) -> int:
        """Return how many of n candidates a round wants: ``count``, or max(int(n * fraction), 1)."""
        if self.selection == "all":
            return candidates
        if self.count is not None:
            return min(self.count, candidates)
        return max(int(candidates * (self.fraction or 1.0)), 1)

    def asked(self, wanted: int, candidates: int) -> int:
        """Return how many devices are asked so that ``wanted`` of them reply in time."""
        return min(candidates, math.ceil(round(wanted * self.over_selection, 9)))

    def replies_needed(self, wanted: int) -> int:
        """Return how many replies close a round that wants ``wanted`` devices, deadline or not.

        At least one and at most ``wanted``; rounded up, and compared with >=, so that a fraction that is no
        exact float can never make a round wait for ever.
        """
        share = math.ceil(round((self.threshold or 1.0) * wanted, 9))
        chosen = self.threshold_count if self.threshold_count is not None else share
        return min(wanted, max(1, self.minimum_replies, chosen))

    def training_of(self, number: int, needs: Options | None = None) -> Options:
        """Return the training settings of round ``number``: the strategy's needs, and over them the run's.

        ``needs`` are those of one's own strategy, which only the cloud functions have.
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
        SettingsError: a field is unknown, missing, of the wrong type or out of its range; the text names the
            field and what it may be.
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
    """Check that the row of a run has room for its settings, beside all else that it holds."""
    size = len(msgspec.json.encode(settings))
    if size > LARGEST_SETTINGS:
        sizes = {
            field: len(msgspec.json.encode(value))
            for field, value in msgspec.structs.asdict(settings).items()
        }
        largest = max(sizes, key=lambda field: sizes[field])
        message = (
            f"the run's settings have {size:,} bytes of JSON, its {largest} alone {sizes[largest]:,};"
            f" {LARGEST_SETTINGS:,} is the most"
        )
        raise SettingsError(message)


def check_training(settings: RunSettings, needs: Options | None = None) -> None:
    """Check that an announcement has room for the training settings of every round, the strategy's too.

    Raises:
        SettingsError: it has not, in the round that the text names.
    """
    beside = f" with what the aggregation {settings.aggregation!r} adds" if needs else ""
    for number in ("1", *settings.training_by_round):
        chosen = settings.training_of(int(number), needs)
        if (length := len(msgspec.json.encode(chosen))) > LARGEST_TRAINING:
            message = (
                f"the run's training and training_by_round{beside} have {length:,} bytes of JSON in round"
                f" {number}; {LARGEST_TRAINING:,} is the most"
            )
            raise SettingsError(message)
        if len(chosen) > MOST_OPTIONS:
            message = (
                f"the run's training and training_by_round{beside} have {len(chosen)} settings in round"
                f" {number}; {MOST_OPTIONS} is the most"
            )
            raise SettingsError(message)


def _contradictions(settings: RunSettings) -> Iterator[str]:
    """Yield what cannot be meant, each naming the fields."""
    yield from _contradictions_of_the_cohort(settings)
    if settings.upload_encoding == "top_k" and not settings.upload_difference:
        yield (
            "the run's upload_encoding is 'top_k', which sends the largest changes: set upload_difference to"
            " true, or choose another upload_encoding"
        )
    yield from _contradictions_of_the_aggregation(settings)
    yield from _contradictions_of_the_evaluation(settings)
    if settings.schedule == "every" and not settings.every_minutes:
        yield "the run's schedule is 'every': say how many minutes in every_minutes"
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
    of_a_metric = {
        "target_value": None,
        "patience": 0,
        "smallest_improvement": 0.0,
        "lower_is_better": False,
        "target_by": "trimmed_mean",
    }
    for field, unset in of_a_metric.items():
        if (value := getattr(settings, field)) != unset and not settings.target_metric:
            named = str(value).lower() if isinstance(value, bool) else value
            yield f"the run's {field} is {named}: name the metric in target_metric, such as 'accuracy'"


def _contradictions_of_the_aggregation(settings: RunSettings) -> Iterator[str]:
    chosen = aggregation.strategy(settings.aggregation, settings.aggregation_options)
    without = chosen.without if chosen else ()
    yield from not_plain(settings.aggregation, without, settings.training, settings.training_by_round)
    if 0 < settings.examples_cap < 1:
        yield (
            f"the run's examples_cap is {settings.examples_cap:g}: it takes 1 or more times the median of the"
            " round's claims, or 0 for no cap"
        )


def _contradictions_of_the_cohort(settings: RunSettings) -> Iterator[str]:
    if settings.fraction is not None and settings.count is not None:
        yield f"the run has both fraction {settings.fraction} and count {settings.count}: give one of them"
    for field in ("fraction", "count"):
        if settings.selection == "all" and (value := getattr(settings, field)) is not None:
            yield (
                f"the run's {field} is {value}, but its selection 'all' asks everybody: leave {field} out, or"
                " choose 'random'"
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


def _contradictions_of_the_evaluation(settings: RunSettings) -> Iterator[str]:
    given = {}
    for field, unset in (("held_out", []), ("evaluate_count", None), ("evaluate_fraction", 1.0)):
        if (value := getattr(settings, field)) != unset:
            given[field] = shown(value)
    if given and not settings.evaluate_every and not settings.evaluate_last:
        field, value = next(iter(given.items()))
        yield (
            f"the run's {field} is {value}, which says who evaluates, but no model is evaluated: set"
            " evaluate_every, or evaluate_last to true"
        )
    if len(given) > 1:
        both = " and ".join(f"{field} {value}" for field, value in given.items())
        yield f"the run has both {both}, which say who evaluates: give one of them"

"""The settings of a run: what the operator may choose, each field with its range.

``settings_parser.parse_settings`` creates them from JSON and checks what no single field can express.
"""

import math
from collections.abc import Collection
from typing import Annotated, Literal

from msgspec import Meta, Struct

from fedgrass.federation import aggregation
from fedgrass.federation.aggregation import STRATEGIES
from fedgrass.federation.messages.alarms import LONGEST_REMINDER
from fedgrass.federation.messages.message_fields import (
    RULES,
    THING_NAME,
    ArrayPatterns,
    Options,
    Sha256,
    StrategyOptions,
    TaskName,
)
from fedgrass.federation.messages.message_types import Encoding, Fraction, Kind, ModelKind
from fedgrass.federation.round_metrics import TargetBy
from fedgrass.federation.selection import SELECTIONS
from fedgrass.federation.statistics.statistics_query import StatisticsQuery
from fedgrass.federation.strategy_registry import CUSTOM_STRATEGY

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
    # Partial models: which of the arrays that the task shares are in the run's model (empty: all of them),
    # and the fingerprint of the arrays that the task has frozen. See docs/partial_models.md.
    shared: ArrayPatterns = []
    frozen_sha256: Sha256 | None = None
    # Announcements carry a trace context, and devices report when each part of their work began and ended, to
    # be exported to OpenTelemetry. See docs/tracking.md.
    trace: bool = False
    # A run of federated statistics: what the devices compute over their data, instead of training.
    statistics: StatisticsQuery | None = None
    # Buffered rounds: devices train at their own pace, and every `buffer_size` replies make a new model, from
    # whichever model each device started. See docs/buffered_rounds.md.
    # Or a ServerApp of Flower opens the rounds, each for the messages that it sends. See docs/flower.md.
    mode: Literal["synchronous", "buffered", "server_app"] = "synchronous"
    buffer_size: Count | None = None  # replies that make a new model
    in_flight: Annotated[int, Meta(ge=1, le=10_000)] | None = None  # devices that train at the same time
    max_staleness: Annotated[int, Meta(ge=0, le=1000)] = 10  # models; replies from older ones are refused
    staleness: Literal["polynomial", "constant", "hinge"] = "polynomial"  # the weight of stale replies
    staleness_exponent: Annotated[float, Meta(ge=0, le=10)] = 0.5
    staleness_slack: Annotated[float, Meta(ge=0, le=1000)] = 4.0  # of "hinge": models without a penalty

    @property
    def is_buffered(self) -> bool:
        """Whether devices train at their own pace."""
        return self.mode == "buffered"

    @property
    def has_server_app(self) -> bool:
        """Whether a ServerApp opens the rounds, each for the messages that it sends."""
        return self.mode == "server_app"

    @property
    def buffer(self) -> int:
        """How many replies make a new model in a buffered run."""
        return self.buffer_size or 1

    @property
    def most_in_flight(self) -> int:
        """How many devices train at the same time in a buffered run; twice the buffer if not set."""
        return self.in_flight if self.in_flight is not None else 2 * self.buffer

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
            if self.is_buffered:
                return self.buffer, 1.0
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

"""Creates the settings of a run from JSON, and checks what no single field can express.

Those are the options of strategies, sizes, and settings that contradict each other.
"""

import math
from collections.abc import Iterator

import msgspec

from fedgrass.federation import aggregation
from fedgrass.federation.aggregation.buffered_settings import buffered_contradictions
from fedgrass.federation.aggregation.staleness import why_not_buffered
from fedgrass.federation.conversion import convert, shown
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import MOST_OPTIONS, Options
from fedgrass.federation.selection import strategy
from fedgrass.federation.selection.attribute_conditions import parse_expression
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.statistics.statistics_settings import with_statistics
from fedgrass.federation.task_messages.server_app_settings import server_app_contradictions
from fedgrass.federation.training_settings import check_sendable, not_plain
from fedgrass.federation.whole_update_settings import whole_contradictions

LARGEST_TRAINING = 2900  # bytes of JSON: the announcement that carries it has at most 4,096
LARGEST_SETTINGS = 100 * 1024  # bytes of JSON: they are stored in the run's row, and DynamoDB allows 400 KB


def parse_settings(values: object) -> RunSettings:
    """Return the settings that ``values``, a decoded JSON object, describes.

    Raises:
        SettingsError: A field is unknown, missing, of the wrong type or out of its range, or contradicts
            another one; the message names the field and what it accepts.
    """
    settings = convert(values, RunSettings, whole="the run's settings", part="the run's ")
    if settings.has_server_app:
        for complaint in server_app_contradictions(settings):
            raise SettingsError(complaint)
    if settings.statistics:
        settings = with_statistics(settings, settings.statistics)
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
        allowed = LARGEST_TRAINING - announced_bytes(settings)
        if (length := len(msgspec.json.encode(chosen))) > allowed:
            why = ""
            if allowed < LARGEST_TRAINING:
                others = ["a ServerApp's message"] if settings.has_server_app else []
                others += (
                    ["its `shared` and frozen_sha256"] if settings.shared or settings.frozen_sha256 else []
                )
                others += ["its `trace`"] if settings.trace else []
                why = f" next to {' and '.join(others)}"
            message = (
                f"the run's training and training_by_round{including} have {length:,} bytes of JSON in round"
                f" {number}; at most {max(0, allowed):,} are allowed{why}"
            )
            raise SettingsError(message)
        if len(chosen) > MOST_OPTIONS:
            message = (
                f"the run's training and training_by_round{including} have {len(chosen)} settings in round"
                f" {number}; at most {MOST_OPTIONS} are allowed"
            )
            raise SettingsError(message)


_FROZEN_BYTES = 320  # of the frozen arrays' fingerprint and file in an announcement


_HEADER_BYTES = 600  # of the header of a ServerApp's message in an announcement: its group may be escaped
_TRACE_BYTES = len(',"trace":"00-') + 32 + 1 + 16 + len('-01"')  # of a traced run's announcement


def announced_bytes(settings: RunSettings) -> int:
    """Return how many bytes of an announcement a trace, a partial model or a ServerApp's message takes."""
    trace = _TRACE_BYTES if settings.trace else 0
    if settings.has_server_app:
        return trace + _HEADER_BYTES
    shared = len(msgspec.json.encode({"shared": settings.shared})) if settings.shared else 0
    return trace + shared + (_FROZEN_BYTES if settings.frozen_sha256 else 0)


def _contradictions(settings: RunSettings) -> Iterator[str]:
    """Yield a message on each contradiction, naming the fields."""
    yield from buffered_contradictions(settings)
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
    if chosen and settings.mode == "buffered" and (why := why_not_buffered(settings.aggregation, chosen)):
        yield why
    yield from not_plain(settings.aggregation, without, settings.training, settings.training_by_round)
    if chosen and chosen.reads == "whole":
        yield from whole_contradictions(settings, chosen)
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

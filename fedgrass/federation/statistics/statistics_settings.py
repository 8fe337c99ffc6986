"""The settings of a run of statistics: which of a run's settings apply, and what follows from the query."""

from collections.abc import Iterator

import msgspec

from fedgrass.federation.conversion import shown
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.statistics.statistics_query import StatisticsQuery, check_query

# All other settings are about training, evaluation and models.
_APPLICABLE = frozenset(
    {
        *("task", "rounds", "statistics", "selection", "fraction", "count", "selection_options"),
        *("minimum_examples", "where", "thing_group", "cool_down_rounds", "over_selection", "threshold"),
        *("threshold_count", "minimum_replies", "accept_seconds", "deadline_seconds", "on_abandoned"),
        *("attempts", "seen_within_seconds", "evaluate_last"),
    }
)


def with_statistics(settings: RunSettings, query: StatisticsQuery) -> RunSettings:
    """Return the settings of a run of statistics: its number of rounds, and its minimum of replies.

    Raises:
        SettingsError: the query contradicts itself, or a setting does not apply to a run of statistics.
    """
    check_query(query)
    for complaint in _contradictions(settings, query):
        raise SettingsError(complaint)
    return msgspec.structs.replace(
        settings,
        rounds=query.rounds,
        minimum_replies=max(settings.minimum_replies, query.minimum_devices),
        evaluate_last=False,
    )


def _contradictions(settings: RunSettings, query: StatisticsQuery) -> Iterator[str]:
    unset = RunSettings(task=settings.task)
    for field in RunSettings.__struct_fields__:
        value = getattr(settings, field)
        if field not in _APPLICABLE and value != getattr(unset, field):
            yield (
                f"the run's {field} is {shown(value)}, which does not apply to a run of statistics: leave it"
                " out"
            )
    if settings.rounds not in {query.rounds, unset.rounds}:
        yield (
            f"the run's rounds is {settings.rounds}, but its statistics take {query.rounds}: leave rounds out"
        )
    if query.agree:
        yield "the query's agree is true, which the run's first round sets itself: leave it out"
    if settings.count is not None and settings.count < query.minimum_devices:
        yield (
            f"the run's count is {settings.count}, and its statistics need at least"
            f" {query.minimum_devices} devices (minimum_devices): raise count, or lower minimum_devices"
        )

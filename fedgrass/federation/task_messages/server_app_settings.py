"""The settings of a run with a ServerApp: those that the ServerApp decides in its place are refused."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from fedgrass.federation.conversion import shown
from fedgrass.federation.settings import RunSettings

_SELECTS = "its strategy chooses the devices (such as FedAvg's fraction_train)"
_EVALUATES = "its strategy decides what is evaluated, and by how many (such as FedAvg's fraction_evaluate)"
_WAITS = "its strategy decides how many replies are enough; deadline_seconds bounds each round"
_STOPS = "the ServerApp decides when it ends"
_INSTEAD: Mapping[str, str] = MappingProxyType(
    {
        "rounds": "the ServerApp decides how many there are: set them in the app's run config",
        "training_by_round": "the ServerApp sends a configuration with each message",
        "statistics": "start a run of statistics by itself, or let the ServerApp send queries",
        "held_out": "the ServerApp chooses the devices of each message; bound them by `where`",
        "shared": "the ServerApp decides which arrays it sends",
        "frozen_sha256": "the ServerApp decides which arrays it sends",
        **dict.fromkeys(
            ("selection", "selection_options", "fraction", "count", "cool_down_rounds", "over_selection"),
            _SELECTS,
        ),
        **dict.fromkeys(
            ("aggregation", "aggregation_options", "aggregation_seconds", "clip_norm", "largest_norm"),
            "its strategy aggregates the replies",
        ),
        "examples_cap": "its strategy weights the replies",
        **dict.fromkeys(
            ("evaluate_every", "evaluate_last", "evaluate_fraction", "evaluate_count"), _EVALUATES
        ),
        **dict.fromkeys(("threshold", "threshold_count", "minimum_replies", "allow_partial"), _WAITS),
        **dict.fromkeys(
            ("on_abandoned", "attempts"), "the ServerApp decides whether it sends a message again"
        ),
        **dict.fromkeys(
            ("upload_encoding", "upload_difference", "top_k_fraction", "download_encoding"),
            "arrays are sent as the app has serialised them",
        ),
        **dict.fromkeys(("schedule", "every_minutes"), "a round is opened when the ServerApp sends messages"),
        **dict.fromkeys(
            (
                *("target_metric", "target_value", "lower_is_better", "target_by", "patience"),
                "smallest_improvement",
            ),
            _STOPS,
        ),
    }
)


def server_app_contradictions(settings: RunSettings) -> Iterator[str]:
    """Yield a message on each setting that is set in a run with a ServerApp and has no meaning there."""
    unset = RunSettings(task=settings.task)
    for field in RunSettings.__struct_fields__:
        value = getattr(settings, field)
        if field in _INSTEAD and value != getattr(unset, field):
            yield (
                f"the run's {field} is {shown(value)}, which has no meaning in mode 'server_app': leave it"
                f" out; {_INSTEAD[field]}"
            )

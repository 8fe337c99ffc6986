"""Checks at the end of a round whether the model that it started from is a collapsed average.

Only if it is, the updates of which it was made are measured, as far as they are still in the bucket, to name
the likely causes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from cloud_functions.aggregation import aggregation_context
from cloud_functions.aggregation.aggregation_context import AggregationContext
from cloud_functions.aggregation.model_files import ModelReader
from cloud_functions.aggregation.update_reader import BadUpdates
from cloud_functions.services import Services
from fedgrass.federation import object_keys
from fedgrass.federation.aggregation.collapsed_average import Evidence, find_collapse, likely_causes
from fedgrass.federation.errors import AggregationFailed, UpdateRefused
from fedgrass.federation.messages.message_fields import shorten
from fedgrass.federation.rounds import Participant, Participation, Round, State, Work
from fedgrass.federation.runs import Run
from fedgrass.federation.weights.array_roles import is_statistic
from fedgrass.federation.weights.slices import Kind, cut

_MOST_MEASURED = 100  # updates
_LARGEST_MEASURED = 256 * 1024**2  # bytes of all measured updates: a few seconds of reading from S3


def warning(services: Services, run: Run, leased: Round, after: Mapping[str, float]) -> str:
    """Return a warning if the model from which a round started is a collapsed average; otherwise empty.

    Its first line compares the model with the local models, each further one names a likely cause.

    Args:
        services: the ports.
        run: the run.
        leased: the round, under its lease; it did not start from the initial model.
        after: the metrics of the model from which it started.
    """
    made = _round_that_made(services, run, leased)
    if made is None or not after:
        return ""
    collapse = find_collapse(made, after, run.settings)
    if collapse is None:
        return ""
    causes = likely_causes(_evidence(services, run, made))
    return "\n".join(
        shorten(line) for line in (str(collapse), *(f"likely cause: {cause}" for cause in causes))
    )


def _round_that_made(services: Services, run: Run, round_: Round) -> Round | None:
    """Return the round that made the model from which another one started, if its row is still there.

    None if other devices than those that train have evaluated the model: their data may differ.
    """
    if round_.work is Work.EVALUATE and run.settings.held_out:
        return None
    attempt = 1
    while found := services.rounds.round(run.name, round_.base, attempt):
        if found.state is State.CLOSED:
            return found
        attempt += 1
    return None


def _evidence(services: Services, run: Run, made: Round) -> Evidence:
    """Measure the updates of which a model was made; without those if they cannot be read any more."""
    try:
        context = aggregation_context.begin(services, run, made)
        if context.guarded.strategy.reads == "whole":  # new trees are no changes of the model's arrays
            return Evidence()
        statistics = [name for name in context.arrays if is_statistic(name)]
        replies = _measurable(services.rounds.participants(made))
        if not replies:
            return Evidence(statistics=statistics)
        combined = aggregation_context.combiner(context, context.open_updates(replies), replies)
        survey = combined.survey(products=True).survey
        model_norm = _model_norm(context)
    except (AggregationFailed, BadUpdates, UpdateRefused, KeyError) as error:
        services.log(f"the updates of model {made.number} cannot be measured: {error}", "WARNING")
        return Evidence()
    return Evidence(
        statistics=statistics,
        devices=[reply.device for reply in replies],
        norms=survey.squared_norms**0.5,
        products=survey.products,
        model_norm=model_norm,
    )


def _measurable(participants: Iterable[Participant]) -> Sequence[Participant]:
    """Return the counted replies, or the first ones of many: as many as can be measured in a few seconds."""
    replies: list[Participant] = []
    size = 0
    for participant in participants:
        if participant.state is not Participation.REPLIED:
            continue
        size += participant.bytes
        if len(replies) == _MOST_MEASURED or size > _LARGEST_MEASURED:
            break
        replies.append(participant)
    return replies


def _model_norm(context: AggregationContext) -> float:
    """Return the Euclidean norm of the floating-point arrays of the model that a round started from."""
    reader = ModelReader(
        context.services.bucket, object_keys.model(context.run.name, context.round.base), context.layout
    )
    squares = (
        float((reader.values(part) ** 2).sum())
        for part in cut(context.layout, 1024**2)
        if part.kind is not Kind.WHOLE
    )
    return math.sqrt(math.fsum(squares))

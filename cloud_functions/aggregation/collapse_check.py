"""Checks at the end of a round whether the model that it started from is a collapsed average.

The devices of a buffer started from several models: the one that most of them measured is judged, by their
metrics only. Only if a model has collapsed, the updates of which it was made are measured, as far as they are
still in the bucket, to name the likely causes.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from cloud_functions.aggregation import aggregation_context
from cloud_functions.aggregation.aggregation_context import AggregationContext
from cloud_functions.aggregation.model_files import ModelReader
from cloud_functions.aggregation.update_reader import BadUpdates
from cloud_functions.services import Services
from fedgrass.federation import object_keys, round_metrics
from fedgrass.federation.aggregation.collapsed_average import Evidence, find_collapse, likely_causes
from fedgrass.federation.errors import AggregationFailed, UpdateRefused
from fedgrass.federation.messages.message_fields import shorten
from fedgrass.federation.rounds import Participant, Participation, Round, State, Work, started_from
from fedgrass.federation.runs import Run
from fedgrass.federation.weights.array_roles import is_statistic
from fedgrass.federation.weights.slices import Kind, cut

_FEWEST_MEASURING = 2  # devices of a buffer that started from the model that is judged
_MOST_MEASURED = 100  # updates
_LARGEST_MEASURED = 256 * 1024**2  # bytes of all measured updates: a few seconds of reading from S3


def warning(services: Services, run: Run, leased: Round, participants: Sequence[Participant]) -> str:
    """Return a warning if the model that a round's devices measured is a collapsed average; otherwise empty.

    Its first line compares the model with the local models, each further one names a likely cause.

    Args:
        services: the ports.
        run: the run.
        leased: the round, under its lease; it did not start from the initial model.
        participants: of the round.
    """
    model, after = _measured_model(run, leased, participants)
    made = _round_that_made(services, run, leased, model) if model and after else None
    if made is None:
        return ""
    collapse = find_collapse(made, after, run.settings)
    if collapse is None:
        return ""
    causes = likely_causes(_evidence(services, run, made))
    return "\n".join(
        shorten(line) for line in (str(collapse), *(f"likely cause: {cause}" for cause in causes))
    )


def _measured_model(
    run: Run, round_: Round, participants: Sequence[Participant]
) -> tuple[int, Mapping[str, float]]:
    """Return the model that most counted devices started from, the newest of several, and their metrics.

    In a buffer, one device alone judges no model: its data may be harder than those of the others.
    """
    replies = [part for part in participants if part.state is Participation.REPLIED]
    numbers = Counter(started_from(round_, part) for part in replies)
    if not numbers:
        return 0, {}
    count, model = max((count, number) for number, count in numbers.items())
    if round_.in_flight and count < _FEWEST_MEASURING:
        return model, {}
    measured = [part for part in replies if started_from(round_, part) == model]
    return model, round_metrics.mean_metrics(round_metrics.reports(measured, run.settings.examples_cap))


def _round_that_made(services: Services, run: Run, round_: Round, model: int) -> Round | None:
    """Return the round that made a model which another round measured, if its row is still there.

    None if other devices than those that train have evaluated the model: their data may differ.
    """
    if round_.work is Work.EVALUATE and run.settings.held_out:
        return None
    attempt = 1
    while found := services.rounds.round(run.name, model, attempt):
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

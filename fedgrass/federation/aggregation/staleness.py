"""How much less an update of a buffered run counts, the older the model is that its device started from.

The staleness of an update is the number of global models made since that one. Its change is multiplied by a
weight s of the staleness t, one of the functions of Xie, Koyejo and Gupta, "Asynchronous Federated
Optimization" (2019), section 5.2:

    constant      s = 1
    polynomial    s = (1 + t)^-a
    hinge         s = 1 if t <= b, else 1 / (a * (t - b) + 1)

where a is the run's ``staleness_exponent`` and b its ``staleness_slack``. The weights are not normalised:
a buffer of stale updates makes a shorter step, as in Nguyen et al., "Federated Learning with Buffered
Asynchronous Aggregation" (2022), algorithm 1.
"""

from fedgrass.federation.aggregation.aggregation_strategy import Strategy
from fedgrass.federation.settings import RunSettings


def staleness_weight(settings: RunSettings, staleness: int) -> float:
    """Return the factor of an update's change, above 0 and at most 1.

    Args:
        settings: The settings of a buffered run.
        staleness: The number of global models made since the one that the device started from; a negative
            number, which only a table restored from a backup can give, counts as 0.
    """
    late = max(0, staleness)
    if settings.staleness == "constant":
        return 1.0
    if settings.staleness == "polynomial":
        return float((1 + late) ** -settings.staleness_exponent)
    beyond = max(0, late - settings.staleness_slack)
    return 1.0 / (settings.staleness_exponent * beyond + 1.0)


def why_not_buffered(name: str, strategy: Strategy) -> str:
    """Return why a strategy cannot aggregate the buffers of a buffered run; empty if it can.

    Args:
        name: The strategy's name, as in the run's ``aggregation``.
        strategy: The strategy.
    """
    reason = strategy.needs_one_model
    if not reason and strategy.reads == "whole":
        reason = (
            "its updates continue that model, such as by further trees, and cannot be weighted by their age"
        )
    if not reason and strategy.carried:
        reason = (
            f"its updates carry {', '.join(map(repr, strategy.carried))}, which devices compute relative to"
            " the server's values of one round"
        )
    if not reason:
        return ""
    return (
        f"the run's mode is 'buffered' and its aggregation {name!r}, which needs updates that all started"
        f" from one model ({reason}): choose another aggregation, or the mode 'synchronous'"
    )

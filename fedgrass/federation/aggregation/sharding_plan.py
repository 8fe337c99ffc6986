"""How the work of averaging one round is divided, chosen from sizes and counts.

A large cohort is summed in *groups* while other devices are still at work: every so many counted replies go
to an averager of their own, and at the end the sums of the groups are averaged. A large model is cut into
*shards*, ranges of its values, each made by an averager of its own from the same range of every update.
"""

from typing import Literal

from msgspec import Struct

from fedgrass.federation.aggregation import Strategy
from fedgrass.federation.weights import Layout
from fedgrass.federation.weights.slices import Slice, cut

_BYTES = 4  # of a float32, which most values of most models are


class Scale(Struct, frozen=True, kw_only=True):
    """From which sizes on work is divided; the defaults are for Lambda, which reads some 75 MB/s from S3."""

    group: int = 64  # replies in a group; all of them, less a few that come at the moment it begins
    grouped_bytes: int = 2 * 1024**3  # of all updates that a round may get; half a minute's reading
    sharded_bytes: int = 256 * 1024**2  # of the model; a shard has half of this


class Job(Struct, frozen=True, kw_only=True):
    """A part of the averaging of one attempt at a round, for another averager to do."""

    run: str
    round: int
    attempt: int
    kind: Literal["group", "shard"]
    number: int  # of the group, from 1, or of the shard, from 0


def group_size(scale: Scale, strategy: Strategy, asked: int, model_bytes: int) -> int:
    """Return how many of a round's replies are summed at a time; 0: they are all averaged at its end.

    Groups are for large rounds where sums of some updates can be averaged, and for models without shards.
    """
    large = asked >= 2 * scale.group and asked * model_bytes >= scale.grouped_bytes
    plain = strategy.separable and not strategy.carried
    return scale.group if large and plain and model_bytes <= scale.sharded_bytes else 0


def shards(scale: Scale, strategy: Strategy, model: Layout, *, surveyed: bool) -> list[Slice]:
    """Return the shards of a model, in its order; none if one averager makes it.

    Nor if whole changes have to be measured first, as Krum, q-FedAvg and clipping do, nor if updates carry
    more than the model's arrays.
    """
    if surveyed or strategy.survey or strategy.carried or model.data_bytes <= scale.sharded_bytes:
        return []
    return list(cut(model, scale.sharded_bytes // 2 // _BYTES))

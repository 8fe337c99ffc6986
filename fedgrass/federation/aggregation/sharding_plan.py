"""How the averaging of one round is divided among averagers, based on sizes and counts.

A large cohort is summed in *groups* while other devices are still training: each group of counted replies is
handed to a separate averager, and at the end the partial sums are averaged. A large model is cut into
*shards*, ranges of its values, each computed by a separate averager from the same range of every update.
"""

from typing import Literal

from msgspec import Struct

from fedgrass.federation.aggregation import Strategy
from fedgrass.federation.weights import Layout
from fedgrass.federation.weights.slices import Slice, cut

_BYTES = 4  # of a float32, the type of most values in most models


class Scale(Struct, frozen=True, kw_only=True):
    """The sizes above which work is divided; the defaults suit Lambda, which reads some 75 MB/s from S3."""

    group: int = 64  # replies per group; replies counted concurrently may make it slightly larger
    grouped_bytes: int = 2 * 1024**3  # of all expected updates of a round; takes half a minute to read
    sharded_bytes: int = 256 * 1024**2  # of the model; a shard has half of this


class Job(Struct, frozen=True, kw_only=True):
    """A part of the averaging of one attempt at a round, handed to another averager."""

    run: str
    round: int
    attempt: int
    kind: Literal["group", "shard"]
    number: int  # of the group, from 1, or of the shard, from 0


def group_size(scale: Scale, strategy: Strategy, asked: int, model_bytes: int) -> int:
    """Return how many of a round's replies are summed per group; 0: all are averaged at the round's end.

    Groups are for large rounds with a separable strategy, and for models without shards.
    """
    large = asked >= 2 * scale.group and asked * model_bytes >= scale.grouped_bytes
    plain = strategy.separable and not strategy.carried
    return scale.group if large and plain and model_bytes <= scale.sharded_bytes else 0


def shards(scale: Scale, strategy: Strategy, model: Layout, *, surveyed: bool) -> list[Slice]:
    """Return the shards of a model, in its order; empty if one averager computes the whole model.

    Also empty if whole changes have to be measured first, as for Krum, q-FedAvg and clipping, if updates
    contain more than the model's arrays, or if they are merged as a whole.
    """
    if (
        strategy.reads == "whole"
        or surveyed
        or strategy.survey
        or strategy.carried
        or model.data_bytes <= scale.sharded_bytes
    ):
        return []
    return list(cut(model, scale.sharded_bytes // 2 // _BYTES))

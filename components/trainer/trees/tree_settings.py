"""The settings of the training of trees, with XGBoost's names and defaults."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from components.runtime.component_errors import WorkFailed
from components.trainer.tasks.task import Settings
from fedgrass.federation.conversion import convert
from fedgrass.federation.errors import SettingsError

Share = Annotated[float, Meta(gt=0, le=1)]
NotNegative = Annotated[float, Meta(ge=0, le=1_000_000_000)]
_OURS = frozenset({"trees_per_round", "most_nodes", "seed"})


class TreeSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of one round on one device; docs/own_task.md describes them for users.

    Attributes:
        trees_per_round: trees that a device adds, for each output group (one, or one per class).
        most_nodes: of a tree; larger trees fail the work. The aggregation tree_bagging sends its own.
        seed: of subsampling; None draws a new one for each round. The number of trees of the model is added,
            so that no two rounds sample the same examples.
        max_depth: levels of a tree below its root; 0: no limit (with ``max_leaves``).
        max_leaves: of a tree; 0: no limit.
        eta: factor on the leaves of a new tree, the learning rate.
        min_child_weight: smallest sum of hessians of a child.
        gamma: smallest reduction of the loss by a split.
        subsample: share of the examples that a tree is grown on.
        colsample_bytree: share of the features that a tree may split by.
        colsample_bynode: share of these that one split chooses from.
        reg_lambda: L2 penalty on leaves.
        reg_alpha: L1 penalty on leaves.
        max_delta_step: largest leaf before ``eta``; 0: XGBoost's default for the objective.
        scale_pos_weight: weight of the examples of class 1, of ``binary:logistic``.
        max_bin: histogram bins of a feature.
        tree_method: how splits are found.
        grow_policy: which node is split next.
    """

    trees_per_round: Annotated[int, Meta(ge=1, le=1_000)] = 1
    most_nodes: Annotated[int, Meta(ge=3, le=65_535)] = 1_023
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    max_depth: Annotated[int, Meta(ge=0, le=30)] = 6
    max_leaves: Annotated[int, Meta(ge=0, le=32_768)] = 0
    eta: Share = 0.3
    min_child_weight: NotNegative = 1.0
    gamma: NotNegative = 0.0
    subsample: Share = 1.0
    colsample_bytree: Share = 1.0
    colsample_bynode: Share = 1.0
    reg_lambda: NotNegative = 1.0
    reg_alpha: NotNegative = 0.0
    max_delta_step: NotNegative = 0.0
    scale_pos_weight: Annotated[float, Meta(gt=0, le=100_000)] = 1.0
    max_bin: Annotated[int, Meta(ge=2, le=65_536)] = 256
    tree_method: Literal["hist", "approx", "exact"] = "hist"
    grow_policy: Literal["depthwise", "lossguide"] = "depthwise"

    def of_xgboost(self) -> dict[str, Any]:
        """Return the settings that XGBoost takes."""
        found = {name: value for name, value in msgspec.structs.asdict(self).items() if name not in _OURS}
        if not self.max_delta_step:
            del found["max_delta_step"]
        return found


def parse_tree_settings(settings: Settings, defaults: TreeSettings) -> TreeSettings:
    """Return ``defaults`` overridden by a run's ``settings``.

    Raises:
        WorkFailed: a setting is unknown, out of its range, or contradicts another one; the text names it.
    """
    chosen = {**msgspec.structs.asdict(defaults), **settings}
    try:
        found = convert(chosen, TreeSettings, whole="the run's training", part="the run's training.")
    except SettingsError as error:
        raise WorkFailed(str(error)) from error
    if not (found.max_depth or found.max_leaves):
        message = "the run's training.max_depth is 0, no limit: set max_leaves then, or a max_depth"
        raise WorkFailed(message)
    if found.tree_method == "exact" and (found.grow_policy == "lossguide" or found.max_leaves):
        message = (
            "the run's training.tree_method is 'exact', which grows level by level without max_leaves: choose"
            " 'hist', or leave grow_policy and max_leaves out"
        )
        raise WorkFailed(message)
    return found

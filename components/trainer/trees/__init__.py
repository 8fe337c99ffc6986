"""Gradient-boosted trees: a user's task supplies a table of numbers, ``XGBoostTask`` does the rest.

Read xgboost_task (the interface) first. It uses tree_settings (what a run may choose), example_table (the
examples and their checks), objectives (margins to predictions and metrics) and booster (tree ensembles to and
from XGBoost's models). Needs the package ``xgboost-cpu`` or ``xgboost``, and not PyTorch.
"""

from components.trainer.trees.tree_settings import TreeSettings
from components.trainer.trees.xgboost_task import XGBoostTask

__all__ = ["TreeSettings", "XGBoostTask"]

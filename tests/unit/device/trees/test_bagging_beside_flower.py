"""Bagging of trees compared with Flower's FedXgbBagging, on the same trees, over consecutive rounds."""

import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' -c constraints.txt")
from flwr.serverapp.strategy import FedXgbBagging

from components.trainer.trees.booster import margin_booster, margins, trees_in
from fedgrass.federation.weights.tree_ensemble import Ensemble, ensemble_of, no_trees
from tests.fakes.flower import FlowerRun
from tests.fakes.small_average import SmallAverage
from tests.fakes.small_trees import file_of_trees

DEVICES, ROUNDS, EXAMPLES = 3, 3, [100, 200, 150]
PARAMETERS = {"objective": "binary:logistic", "base_score": 0.5, "max_depth": 3, "eta": 0.3, "nthread": 1}


def boosted(start: bytes, rows: slice) -> bytes:
    """Return XGBoost's file of the one tree that a device adds to a model, as Flower's example sends it."""
    inputs, targets = load_breast_cancer(return_X_y=True)
    before = xgboost.Booster()
    if start:
        before.load_model(bytearray(start))
    matrix = xgboost.DMatrix(inputs[rows], label=targets[rows], nthread=1)
    after = xgboost.train(PARAMETERS, matrix, num_boost_round=1, xgb_model=before if start else None)
    last = after.num_boosted_rounds() - 1
    return bytes(after[last : last + 1].save_raw("json"))


def array(file: bytes) -> dict[str, NDArray[np.uint8]]:
    return {"0": np.frombuffer(file, np.uint8)}


def test_with_equal_weights_that_sum_to_the_number_of_devices_the_model_is_flowers() -> None:
    inputs, _ = load_breast_cancer(return_X_y=True)
    empty = Ensemble("binary:logistic", inputs.shape[1], np.zeros(1, np.float32), no_trees())
    options = {"tree_weights": "equal", "server_rate": float(DEVICES)}
    ours = SmallAverage(empty.arrays(), aggregation="tree_bagging", aggregation_options=options)
    theirs, file = FlowerRun(FedXgbBagging(), array(b"")), b""
    for _ in range(ROUNDS):
        trees = [boosted(file, slice(device, None, DEVICES)) for device in range(DEVICES)]
        metrics = [{"loss": 0.0}] * DEVICES
        file = theirs.round([array(tree) for tree in trees], EXAMPLES, metrics)["0"].tobytes()
        updates = [file_of_trees(trees_in(_booster(tree)).arrays()) for tree in trees]
        model = ensemble_of(ours.round(updates, examples=EXAMPLES))
        expected = _booster(file).predict(xgboost.DMatrix(inputs, nthread=1), output_margin=True)
        found = margins(margin_booster(model), model.base_score, inputs.astype(np.float32))[:, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert model.trees.total == DEVICES * ROUNDS


def _booster(file: bytes) -> xgboost.Booster:
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(file))
    return booster

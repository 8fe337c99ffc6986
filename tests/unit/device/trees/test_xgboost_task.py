"""``XGBoostTask``: boosting continues the global ensemble, and mistakes are named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray

from components.predictor.serving import Request, Served, Serving
from components.runtime.component_errors import RequestRefused, WorkFailed
from components.trainer.tasks.task import Fit, InputRefused
from components.trainer.trees import TreeSettings, XGBoostTask, xgboost_task
from components.trainer.trees.booster import margin_booster
from components.trainer.trees.tree_settings import parse_tree_settings
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import TaskOptions, WorkOrder
from fedgrass.federation import weights
from fedgrass.federation.encodings.array_types import read_task_arrays
from fedgrass.federation.messages import NewModel
from fedgrass.federation.messages.message_types import Encoding
from fedgrass.federation.weights.tree_ensemble import TREE_ARRAYS, Ensemble
from tests.fakes.memory_device import announcement
from tests.fakes.small_average import SmallAverage
from tests.fakes.small_trees import ensemble, file_of_trees, stump

ROWS, COLUMNS = 300, 4
Table = tuple[NDArray[Any], NDArray[Any]]
PARAMS = {"max_depth": 3, "eta": 0.3}


def table(seed: int = 0, rows: int = ROWS) -> Table:
    """Return examples of two classes that two columns determine, with missing values."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(rows, COLUMNS))
    targets = (inputs[:, 0] * inputs[:, 1] > 0).astype(int)
    inputs[rng.random(inputs.shape) < 0.05] = np.nan
    return inputs, targets


def task(training: Any = None, held_out: Any = None, **options: Any) -> XGBoostTask:
    chosen = {"objective": "binary:logistic", "params": PARAMS, **options}
    return XGBoostTask(table() if training is None else training, held_out or table(1), **chosen)


def fit(of: XGBoostTask, model: Any = None, **chosen: Any) -> Fit:
    start = of.initial_weights(0) if model is None else model
    return of.fit(start, chosen, lambda _: None, lambda: False)


def test_its_table_answers_queries_of_statistics_with_columns_and_classes() -> None:
    inputs, targets = table()
    found = task().features()
    assert found.keys() == {"x", "labels"}
    np.testing.assert_array_equal(found["x"], inputs.astype(np.float32))
    np.testing.assert_array_equal(found["labels"], targets)
    assert found["labels"].dtype.kind == "i"
    numbers = task((inputs, targets + 0.5), (inputs, targets + 0.5), objective="reg:squarederror").features()
    np.testing.assert_array_equal(numbers["target"], targets + np.float32(0.5))
    assert "labels" not in numbers


OBJECTIVES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"objective": "binary:logistic"}, {"objective": "binary:logistic", "base_score": 0.5}),
    (
        {"objective": "multi:softprob", "classes": 3},
        {"objective": "multi:softprob", "num_class": 3, "base_score": 0.0},
    ),
    (
        {"objective": "reg:squarederror", "base_score": 1.5},
        {"objective": "reg:squarederror", "base_score": 1.5},
    ),
    ({"objective": "count:poisson", "base_score": 2.0}, {"objective": "count:poisson", "base_score": 2.0}),
]


@pytest.mark.parametrize(("options", "theirs"), OBJECTIVES)
def test_one_device_makes_the_trees_of_xgboost_alone_round_after_round(
    options: dict[str, Any], theirs: dict[str, Any]
) -> None:
    """The strategy's result with one device is XGBoost's own, to the last bit."""
    inputs, targets = table()
    targets = targets + (inputs[:, 2] > 0) if options["objective"] != "binary:logistic" else targets
    own = task((inputs, targets), (inputs, targets), **options)
    run = SmallAverage(own.initial_weights(0), aggregation="tree_bagging")
    for _ in range(4):
        update = fit(own, run.model, trees_per_round=1).update
        assert update is not None
        run.round([file_of_trees(update)])
    alone = xgboost.train({**PARAMS, **theirs}, xgboost.DMatrix(inputs, label=targets), num_boost_round=4)
    assert own.booster(run.model).predict(xgboost.DMatrix(inputs)).tobytes() == (
        alone.predict(xgboost.DMatrix(inputs)).tobytes()
    )
    before, after = (own.evaluate(model).metrics["loss"] for model in (own.initial_weights(0), run.model))
    assert after < before


def test_several_trees_of_a_round_are_those_of_several_rounds() -> None:
    own = task()
    at_once = fit(own, trees_per_round=4).weights
    step = own.initial_weights(0)
    for _ in range(4):
        step = dict(fit(own, step, trees_per_round=1).weights)
    assert all(np.array_equal(at_once[name], step[name]) for name in at_once)


def test_an_update_has_the_new_trees_only_and_the_weights_have_all() -> None:
    own = task()
    first = fit(own, trees_per_round=2)
    second = fit(own, first.weights, trees_per_round=3)
    assert first.update is not None
    assert second.update is not None
    assert list(second.update) == list(TREE_ARRAYS)
    assert [len(found["tree_nodes"]) for found in (second.update, second.weights)] == [3, 5]
    assert second.examples == ROWS
    assert second.metrics == {"trees": 5.0}
    assert np.array_equal(
        second.weights["node_value"][: len(first.update["node_value"])], first.update["node_value"]
    )


def test_the_weights_of_the_servers_trees_count_in_the_next_round() -> None:
    own = task()
    first = dict(fit(own).weights)
    halved = {**first, "tree_weight": np.full(1, 0.5, np.float32)}
    margins = fit(own, halved).weights
    full = fit(own, first).weights
    assert not np.array_equal(margins["node_value"], full["node_value"])


def test_a_model_is_made_once_for_its_evaluation_and_its_training(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(model: Ensemble, threads: int) -> xgboost.Booster:
        made.append(model.trees.total)
        return margin_booster(model, threads)

    monkeypatch.setattr(xgboost_task, "margin_booster", counted)
    own = task()
    first = own.evaluate(own.initial_weights(0))
    trained = fit(own).weights
    halved = {**trained, "tree_weight": np.full(1, 0.5, np.float32)}
    losses = [own.evaluate(model).metrics["loss"] for model in (trained, halved, trained)]
    assert made == [0, 1, 1, 1]
    assert first.metrics["loss"] > losses[1] > losses[0] == losses[2]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"objective": "binary:logistic"}, {"loss", "accuracy", "auc"}),
        ({"objective": "multi:softprob", "classes": 3}, {"loss", "accuracy"}),
        ({"objective": "reg:squarederror"}, {"loss", "rmse", "mae"}),
        ({"objective": "count:poisson"}, {"loss", "rmse"}),
    ],
)
def test_the_metrics_are_xgboosts_own(options: dict[str, Any], names: set[str]) -> None:
    inputs, targets = table(2)
    own = task((inputs, targets), (inputs, targets), **options)
    model = fit(own, trees_per_round=5).weights
    found = own.evaluate(model).metrics
    assert found.keys() == names
    theirs = {
        "loss": {
            "binary:logistic": "logloss",
            "multi:softprob": "mlogloss",
            "count:poisson": "poisson-nloglik",
        }.get(options["objective"], "rmse"),
        "rmse": "rmse",
        "mae": "mae",
        "auc": "auc",
    }
    booster = own.booster(model)
    for name in names - {"accuracy"}:
        booster.set_param({"eval_metric": theirs[name], "disable_default_eval_metric": 1})
        measured = booster.eval(xgboost.DMatrix(inputs, label=targets)).rsplit(":", 1)[1]
        own_value = found[name] ** 0.5 if (name, theirs[name]) == ("loss", "rmse") else found[name]
        assert own_value == pytest.approx(float(measured), rel=1e-4)
        booster = own.booster(model)
    if "accuracy" in names:
        predicted = booster.predict(xgboost.DMatrix(inputs))
        classes = predicted.argmax(axis=1) if predicted.ndim > 1 else predicted > 0.5
        assert found["accuracy"] == pytest.approx(float((classes == targets).mean()))


def test_a_held_out_set_of_one_class_has_no_auc_and_an_empty_one_no_metrics() -> None:
    inputs, targets = table()
    own = task(held_out=(inputs[targets == 1], targets[targets == 1]))
    assert own.evaluate(fit(own).weights).metrics.keys() == {"loss", "accuracy"}
    empty = task(held_out=(inputs[:0], targets[:0]))
    assert empty.evaluate(empty.initial_weights(0)).examples == 0


def test_a_device_with_examples_of_one_class_trains_too() -> None:
    inputs, targets = table()
    for options in ({"objective": "binary:logistic"}, {"objective": "multi:softprob", "classes": 3}):
        own = task((inputs[targets == 1], targets[targets == 1]), **options)
        assert np.isfinite(fit(own, trees_per_round=3).weights["node_value"]).all()


def test_data_that_grow_are_read_before_each_work() -> None:
    rows = [100]
    own = task(lambda: table(0, rows[0]))
    assert own.examples() == fit(own).examples == 100
    rows[0] = 150
    assert own.examples() == fit(own).examples == 150


def test_a_training_that_is_asked_to_stop_returns_its_trees() -> None:
    own, reports = task(), list[float]()
    found = own.fit(
        own.initial_weights(0), {"trees_per_round": 10}, reports.append, lambda: len(reports) == 3
    )
    assert (found.partial, len(found.weights["tree_nodes"])) == (True, 3)
    assert reports == pytest.approx([0.1, 0.2, 0.3])
    assert not fit(own, trees_per_round=2).partial


def test_subsampling_differs_from_round_to_round_and_is_the_same_for_the_same_seed() -> None:
    own = task()
    sampled = {"subsample": 0.3, "seed": 7}
    first, again = (fit(own, **sampled).weights for _ in range(2))
    assert np.array_equal(first["node_value"], again["node_value"])
    other = fit(own, subsample=0.3, seed=8).weights
    assert not np.array_equal(first["node_value"], other["node_value"])
    # With the trees' number in the seed, a second round of the same seed samples other examples.
    assert (
        own._parameters(TreeSettings(seed=7), 0)["seed"] != own._parameters(TreeSettings(seed=7), 3)["seed"]
    )
    assert own._parameters(TreeSettings(), 0)["seed"] != own._parameters(TreeSettings(), 0)["seed"]


# ---------------------------------------------------------------- applications


def test_the_predictor_takes_rows_with_null_for_missing_values() -> None:
    own = task()
    model = fit(own, trees_per_round=3).weights
    predict = own.predictor(model)
    inputs = table(3)[0][:4]
    rows = [[None if np.isnan(value) else float(value) for value in row] for row in inputs]
    assert predict(rows) == pytest.approx(own.booster(model).predict(xgboost.DMatrix(inputs)).tolist())
    assert predict([]) == []
    classes = task(objective="multi:softprob", classes=3)
    (row,) = classes.predictor(fit(classes).weights)([rows[0]])
    assert isinstance(row, list)
    assert sum(row) == pytest.approx(1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1, 2, 3]], r"inputs\[0\] is 3 values; the model takes a list of 4 numbers"),
        ([7], r"inputs\[0\] is a int"),
        ([[1, 2, 3, 4], "abcd"], r"inputs\[1\] is a str"),
        ([[1, 2, 3, "x"]], r"inputs\[0\]\[3\] is 'x'; it takes a number, or null"),
        ([[1, 2, 3, True]], r"inputs\[0\]\[3\] is True"),
        ([[1, 2, 3, 1e300]], r"inputs has the value 1e.300 in row 0, column 3"),
        ([[1, 2, 3, 10**400]], r"inputs\[0\]\[3\] is too large"),
        ([{"a": 1}], r"inputs\[0\] is a dict"),
    ],
)
def test_an_input_that_is_no_row_is_refused_by_name(rows: list[object], message: str) -> None:
    own = task()
    with pytest.raises(InputRefused, match=message):
        own.predictor(own.initial_weights(0))(rows)


def test_the_predictor_component_serves_a_model_of_the_bucket() -> None:
    own = task()
    file = weights.encode(fit(own, trees_per_round=2).weights)
    model = NewModel(
        task="pumps", run="run-1", round=1, bucket="b", key="k", sha256=weights.sha256(file), bytes=len(file),
        closed_at=1,
    )  # fmt: skip
    serving = Serving(("pumps",))
    arrays = read_task_arrays(file)
    weights.check_finite(arrays)
    serving.serve("pumps", Served(model, own.predictor(arrays)))
    answer = serving.answer("pumps", Request(inputs=[[0.5, None, 1, 2]]))
    assert 0 < answer["outputs"][0] < 1
    with pytest.raises(RequestRefused, match="the model takes a list of 4 numbers"):
        serving.answer("pumps", Request(inputs=[[0.5]]))


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"objective": "rank:ndcg"},
            "the objective is 'rank:ndcg'; it takes one of: binary:logistic, multi:softprob",
        ),
        ({"objective": "multi:softprob"}, "has 0 classes; it takes at least 3"),
        ({"objective": "multi:softprob", "classes": 2}, "has 2 classes; it takes at least 3"),
        ({"objective": "reg:squarederror", "classes": 4}, "has 4 classes; it takes none"),
        ({"base_score": 1.0}, "the base_score 1.0 is out of the range of the objective 'binary:logistic'"),
        ({"base_score": -2.0}, "the base_score -2.0 is out of the range"),
        ({"base_score": float("nan")}, "the base_score nan is out of the range"),
        ({"params": {"max_dept": 3}}, "max_dept"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(WorkFailed, match=message):
        task(**options)


INPUTS, TARGETS = table()


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ((INPUTS, TARGETS + 1), "training: y has the value 2 at .*; the classes are 0 to 1"),
        ((INPUTS, TARGETS / 2), "training: y has the value 0.5 at"),
        ((INPUTS, np.where(TARGETS == 1, np.nan, 0)), "training: y has the value nan at"),
        ((INPUTS[0], TARGETS), r"training has X of shape \(4,\) and y of shape \(300,\)"),
        ((INPUTS, TARGETS[:-1]), r"y of shape \(299,\); it takes \(n, features\) and \(n,\)"),
        ((np.full_like(INPUTS, np.inf), TARGETS), "training: X has the value inf in row 0, column 0"),
        ((np.full_like(INPUTS, 1e39), TARGETS), "training: X has the value 1e.39 in row 0"),
        (([["a"]], [1]), "training must be a pair of arrays"),
        (INPUTS, "training must be a pair of arrays"),
        ((INPUTS[:0], TARGETS[:0]), "there are no examples to train on"),
        ((INPUTS[:, :3], TARGETS), "the examples have 3 features, the model 4"),
    ],
)
def test_examples_that_are_no_table_are_named(training: Any, message: str) -> None:
    own = task(training, features=4)
    with pytest.raises(WorkFailed, match=message):
        fit(own)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_depth": 31}, "the run's training.max_depth is 31: it takes a whole number from 0 to 30"),
        ({"eta": 0.0}, "the run's training.eta is 0.0"),
        ({"learning_rate": 0.1}, "learning_rate"),
        ({"trees_per_round": 0}, "the run's training.trees_per_round is 0"),
        ({"max_depth": 0}, "max_depth is 0, no limit: set max_leaves"),
        ({"tree_method": "exact", "max_leaves": 8}, "tree_method is 'exact'"),
        ({"tree_method": "gpu_hist"}, "tree_method is 'gpu_hist': it takes one of"),
        ({"most_nodes": 3, "max_depth": 3}, "a tree has .* nodes, 3 is the most of the run .most_nodes"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(WorkFailed, match=message):
        fit(task(), **settings)


def test_xgboost_takes_every_setting() -> None:
    """Unknown parameters would only be logged."""
    others: dict[str, Any] = {
        "max_depth": 2, "max_leaves": 3, "eta": 0.1, "min_child_weight": 2.0, "gamma": 5.0, "subsample": 0.9,
        "colsample_bytree": 0.5, "colsample_bynode": 0.3, "reg_lambda": 2.0, "reg_alpha": 0.1,
        "max_delta_step": 0.5, "scale_pos_weight": 2.0, "max_bin": 64, "tree_method": "approx",
        "grow_policy": "lossguide",
    }  # fmt: skip
    chosen = parse_tree_settings(others, TreeSettings()).of_xgboost()
    assert chosen.keys() == others.keys()
    plain = fit(task(), trees_per_round=4, seed=0).weights
    for name, value in others.items():
        if name in {"grow_policy", "tree_method"}:
            continue  # these grow the same trees of so few examples
        found = fit(task(), trees_per_round=4, seed=0, **{name: value}).weights
        assert found["node_value"].tobytes() != plain["node_value"].tobytes(), name


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"w": np.zeros(3, np.float32)}, "the model is not an ensemble of trees: array 'base_score'"),
        (
            ensemble(stump()).arrays(),
            "the model has the objective 'reg:squarederror' with 1 groups, the task",
        ),
        (
            {**ensemble(stump(), objective="binary:logistic").arrays(), "node_left": np.zeros(3, np.int32)},
            "tree 0, node 1: it is a leaf, but has the left child 0",
        ),
    ],
)
def test_a_model_of_another_kind_is_named(model: Any, message: str) -> None:
    own = task()
    for use in (own.evaluate, own.predictor, lambda found: fit(own, found)):
        with pytest.raises(WorkFailed, match=message):
            use(model)


# ---------------------------------------------------------------- in the worker


class Small(XGBoostTask):
    """A task as a user writes it."""

    def __init__(self) -> None:
        super().__init__(table(), table(1), objective="binary:logistic", params=PARAMS)


def order(folder: Path, **said: Any) -> tuple[WorkOrder, bytes]:
    model = weights.encode(Small().initial_weights(0))
    announced = announcement(task="small", model_bytes=len(model), model_sha256=weights.sha256(model), **said)
    options: TaskOptions = {"module": f"{__name__}:Small"}
    return WorkOrder(
        announcement=announced, options=options, update=str(folder / "update.safetensors")
    ), model


def test_the_worker_writes_an_update_that_the_averager_takes(tmp_path: Path) -> None:
    work, model = order(tmp_path, settings={"trees_per_round": 2})
    result = WorkRunner(lambda *_: model).perform(work, lambda _: None, lambda: False)
    file = Path(work.update).read_bytes()
    assert (result.bytes, result.checksum) == (len(file), weights.checksum(file))
    assert (result.examples, result.train_metrics) == (ROWS, {"trees": 2.0})
    assert result.metrics["local_loss"] < result.metrics["loss"]
    run = SmallAverage(
        Small().initial_weights(0), aggregation="tree_bagging", training={"trees_per_round": 2}
    )
    made = run.round([file])
    assert len(made["tree_nodes"]) == 2


def test_the_worker_refuses_a_run_that_encodes_updates(tmp_path: Path) -> None:
    work, model = order(tmp_path, upload=Encoding(kind="int8"))
    with pytest.raises(WorkFailed, match=r"which the run's upload_encoding 'int8' .* cannot encode"):
        WorkRunner(lambda *_: model).perform(work, lambda _: None, lambda: False)
    assert not Path(work.update).exists()

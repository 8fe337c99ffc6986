"""Apps get the same messages from fedgrass as from Flower, and Flower's strategies the same replies."""

import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, RecordDict
from flwr.server import LegacyContext, ServerConfig, SimpleClientManager
from flwr.server import strategy as legacy_strategies
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from components.trainer.flower.flower_task import FlowerTask
from components.trainer.tasks.task import RoundPlace
from components.trainer.tasks.task_modules import folder_at
from fedgrass.federation.task_messages.node_ids import node_id
from tests.unit.device.flower.app_grid import AppGrid, own_node, task_node
from tests.unit.device.flower.small_apps import MESSAGE_APP, app_task, train, write_app

CONFIG = {"num-server-rounds": 3, "learning-rate": 0.5, "optimizer.name": "sgd"}
# Trains on data of its partition, and keeps its momentum in the state.
MOMENTUM_APP = (
    MESSAGE_APP
    + """
    from flwr.app import Array

    @app.train()
    def train(msg: Message, context: Context):
        number = context.node_config["partition-id"]
        data = np.random.default_rng(number).normal(size=(20 + number, 3))
        model = {name: array.numpy() for name, array in msg.content["arrays"].items()}
        before = context.state["momentum"].to_numpy_ndarrays()[0] if "momentum" in context.state else 0.0
        step = 0.9 * before + data.mean(0).astype(np.float32) - model["mean"]
        context.state["momentum"] = ArrayRecord([step.astype(np.float32)])
        model["mean"] = model["mean"] + np.float32(msg.content["config"]["lr"]) * step
        record = ArrayRecord({name: Array(value) for name, value in model.items()})
        metrics = MetricRecord({"num-examples": len(data), "loss": float(np.square(step).sum())})
        return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=msg)

    @app.evaluate()
    def evaluate(msg: Message, context: Context):
        far = float(np.abs(msg.content["arrays"]["mean"].numpy() - context.node_config["partition-id"]).max())
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 4, "far": far})}), reply_to=msg)
"""
)
DEVICES = ("edge-1", "edge-2", "edge-3")


@pytest.fixture(autouse=True)
def server() -> None:
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1


def grids(tmp_path: Path, client_app: str) -> dict[str, AppGrid]:
    """Return a grid of the app's own functions and one of fedgrass's tasks, with a node per device."""
    folder = write_app(tmp_path / "app", client_app)
    own: Any = folder_at(str(folder)).load("small.client_app").app

    def task(number: int) -> FlowerTask:
        return app_task(folder, **{"node-partition-id": number})

    return {
        "flower": AppGrid(
            {
                node_id(name): own_node(own, name, CONFIG, **{"partition-id": n})
                for n, name in enumerate(DEVICES)
            }
        ),
        "fedgrass": AppGrid(
            {node_id(name): task_node(partial(task, n), name, tmp_path) for n, name in enumerate(DEVICES)}
        ),
    }


def record(**arrays: Any) -> Any:
    return ArrayRecord({name: Array(np.asarray(value, np.float32)) for name, value in arrays.items()})


def test_a_server_app_reaches_the_same_model_over_tasks_that_restart_all_the_time(tmp_path: Path) -> None:
    results = {}
    for name, grid in grids(tmp_path, MOMENTUM_APP).items():
        random.seed(1)  # the order of the nodes, and with it that of the sum
        results[name] = FedAvg(min_available_nodes=3).start(
            grid, record(mean=np.zeros(3), other=[[1.0]]), 3, train_config=ConfigRecord({"lr": 0.5})
        )
    flower, fedgrass = results["flower"], results["fedgrass"]
    assert fedgrass.arrays == flower.arrays
    assert fedgrass.train_metrics_clientapp == flower.train_metrics_clientapp
    assert fedgrass.evaluate_metrics_clientapp == flower.evaluate_metrics_clientapp
    assert len(flower.evaluate_metrics_clientapp) == 3


def test_a_round_of_fedgrass_sends_what_fedavg_sends(tmp_path: Path) -> None:
    """The content of the messages is the same; the state and the replies follow from it."""
    recording = (
        MESSAGE_APP
        + """
    seen = []

    @app.train()
    def train(msg: Message, context: Context):
        seen.append((msg.metadata.message_type, RecordDict(dict(msg.content))))
        reply = {"arrays": msg.content["arrays"], "m": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(reply), reply_to=msg)

    @app.evaluate()
    def evaluate(msg: Message, context: Context):
        return train(msg, context)
"""
    )
    grid = grids(tmp_path, recording)["flower"]
    seen: Any = folder_at(str(tmp_path / "app")).load("small.client_app").seen
    model = {
        "b.weight": np.ones((1, 2), np.float32),
        "a.count": np.array(3),
        "b.bias": np.full(1, 0.5, np.float32),
    }
    arrays = ArrayRecord({name: Array(value) for name, value in model.items()})
    strategy = FedAvg(fraction_train=0.5, fraction_evaluate=0.5, min_train_nodes=1, min_evaluate_nodes=1)
    grid.send_and_receive(strategy.configure_train(4, arrays, ConfigRecord({"lr": 0.1}), grid))
    grid.send_and_receive(strategy.configure_evaluate(4, arrays, ConfigRecord({"lr": 0.1}), grid))
    task = app_task(tmp_path / "app")
    task.begin_round(RoundPlace("run", 4, "edge-1", tmp_path / "state", tmp_path / "after", {"lr": 0.1}))
    train(task, model, lr=0.1)
    task.evaluate(model)
    assert [kind for kind, _ in seen] == ["train", "evaluate", "train", "evaluate"]
    assert seen[2:] == seen[:2]
    assert list(seen[2][1]["arrays"]) == list(model)


def legacy_history(grid: AppGrid, workflow: Any, rounds: int) -> tuple[Any, Any]:
    """Run a legacy workflow of Flower; return the final arrays and its history."""
    strategy = legacy_strategies.FedAvg(
        min_available_clients=3,
        min_fit_clients=3,
        min_evaluate_clients=3,
        fit_metrics_aggregation_fn=lambda found: {"loss": sum(count * each["loss"] for count, each in found)},
    )
    context = LegacyContext(
        context=Context(1, 1, {}, RecordDict(), {}),
        config=ServerConfig(num_rounds=rounds),
        strategy=strategy,
        client_manager=SimpleClientManager(),
    )
    random.seed(1)
    workflow(grid, context)
    return context.state.array_records["parameters"], context.history


NUMPY_APP = """
    import numpy as np
    from flwr.client import NumPyClient
    from flwr.clientapp import ClientApp

    class Client(NumPyClient):
        def __init__(self, number):
            self.data = np.random.default_rng(number).normal(size=(10, 2)).astype(np.float32)

        def get_parameters(self, config):
            return [np.zeros(2, np.float32), np.ones((1, 1), np.float32)]

        def fit(self, parameters, config):
            mean, other = parameters
            step = self.data.mean(0) - mean
            return [mean + step / 2, other], len(self.data), {"loss": float(np.square(step).sum())}

        def evaluate(self, parameters, config):
            return float(np.abs(parameters[0]).sum()), 4, {}

    def client_fn(context):
        return Client(context.node_config["partition-id"]).to_client()

    app = ClientApp(client_fn)
"""


@pytest.mark.slow
def test_a_legacy_server_reaches_the_same_model(tmp_path: Path) -> None:
    (arrays, history), (own, own_history) = (
        legacy_history(grid, DefaultWorkflow(), 2) for grid in reversed(grids(tmp_path, NUMPY_APP).values())
    )
    assert arrays == own
    assert history.losses_distributed == own_history.losses_distributed
    assert history.metrics_distributed_fit == own_history.metrics_distributed_fit


@pytest.mark.slow
def test_secure_aggregation_keeps_its_secrets_in_the_state_of_the_device(tmp_path: Path) -> None:
    """SecAgg+ is four messages to each device, which has to remember its keys and shares between them."""
    app = NUMPY_APP.replace("ClientApp(client_fn)", "ClientApp(client_fn, mods=[secaggplus_mod])").replace(
        "import NumPyClient", "import NumPyClient\n    from flwr.client.mod import secaggplus_mod"
    )
    secure = SecAggPlusWorkflow(num_shares=3, reconstruction_threshold=2, max_weight=100)
    arrays, _ = legacy_history(grids(tmp_path, app)["fedgrass"], DefaultWorkflow(secure), 1)
    plain, _ = legacy_history(grids(tmp_path, NUMPY_APP)["flower"], DefaultWorkflow(), 1)
    for one, other in zip(arrays.to_numpy_ndarrays(), plain.to_numpy_ndarrays(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)  # of its quantization

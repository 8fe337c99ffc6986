"""Every strategy of the installed Flower over a fleet: its results are those in one process."""

import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' -c constraints.txt")
from flwr.app import Array, ArrayRecord, Context, Message, Metadata, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp import strategy as flower

from fedgrass.console.flower.fleet_grid import FleetGrid
from fedgrass.console.flower.flower_api import from_records, identify, to_parts
from fedgrass.federation.messages import MessageHeader
from fedgrass.federation.task_messages.node_ids import node_id
from tests.fakes.flower_fleet import Content, FlowerFleet
from tests.fakes.small_fleet import RUN

DEVICES, ROUNDS = 7, 3
NO_STRATEGIES = {"Result", "Strategy"}  # of the module: a result, and the base class
FIXED = (flower.FedAvg(), 0.1, 0.5, DEVICES)  # noise multiplier, clipping norm, sampled clients
MAKE: dict[str, Callable[[], Any]] = {
    **{name: getattr(flower, name) for name in ("FedAvg", "FedMedian", "FedAdagrad", "FedAdam", "FedYogi")},
    "FedProx": lambda: flower.FedProx(proximal_mu=0.5),
    "FedAvgM": lambda: flower.FedAvgM(server_momentum=0.9),
    "FedTrimmedAvg": lambda: flower.FedTrimmedAvg(beta=0.3),
    "Krum": lambda: flower.Krum(num_malicious_nodes=1),
    "MultiKrum": lambda: flower.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=3),
    "Bulyan": lambda: flower.Bulyan(num_malicious_nodes=1),
    "QFedAvg": lambda: flower.QFedAvg(client_learning_rate=0.1, train_loss_key="train_loss"),
    "FedXgbBagging": flower.FedXgbBagging,
    "FedXgbCyclic": flower.FedXgbCyclic,
    "DifferentialPrivacyServerSideFixedClipping": lambda: flower.DifferentialPrivacyServerSideFixedClipping(
        *FIXED
    ),
    "DifferentialPrivacyClientSideFixedClipping": lambda: flower.DifferentialPrivacyClientSideFixedClipping(
        *FIXED
    ),
    "DifferentialPrivacyServerSideAdaptiveClipping": lambda: (
        flower.DifferentialPrivacyServerSideAdaptiveClipping(flower.FedAvg(), 0.1, DEVICES)
    ),
    "DifferentialPrivacyClientSideAdaptiveClipping": lambda: (
        flower.DifferentialPrivacyClientSideAdaptiveClipping(flower.FedAvg(), 0.1, DEVICES)
    ),
}
MODS = {
    "DifferentialPrivacyClientSideFixedClipping": [fixedclipping_mod],
    "DifferentialPrivacyClientSideAdaptiveClipping": [adaptiveclipping_mod],
}
TREES = {"FedXgbBagging", "FedXgbCyclic"}  # their model is one array with a file of XGBoost


def test_every_strategy_of_the_installed_flower_is_tried() -> None:
    assert set(MAKE) == set(flower.__all__) - NO_STRATEGIES


@pytest.mark.parametrize("name", MAKE)
def test_a_strategy_has_the_result_over_a_fleet_that_it_has_in_one_process(name: str) -> None:
    app = trees_app() if name in TREES else numbers_app(MODS.get(name, []))
    start = ArrayRecord([np.zeros(0, np.uint8)]) if name in TREES else numbers_model()

    def result(grid: Any) -> Any:
        random.seed(3)  # by which Flower selects nodes
        np.random.seed(3)  # noqa: NPY002 - by which Flower draws noise
        return MAKE[name]().start(grid, start, num_rounds=ROUNDS)

    def work(device: str, header: MessageHeader, content: Content) -> Content:
        reply = called(app, node_id(device), header, from_records(*content))
        parts = to_parts(reply.content)
        return [part.record for part in parts], [bytes(data) for part in parts for data in part.data]

    fleet = FlowerFleet(DEVICES, work)
    identify(RUN)
    found = result(FleetGrid(fleet.exchange(), RUN, clock=fleet.clock))
    expected = result(DirectGrid(app, [node_id(device) for device in fleet.fleet.names]))
    for key, array in expected.arrays.items():
        np.testing.assert_allclose(found.arrays[key].numpy(), array.numpy(), rtol=1e-6, atol=1e-6)
    for metrics in ("train_metrics_clientapp", "evaluate_metrics_clientapp"):
        for number, values in getattr(expected, metrics).items():
            assert dict(getattr(found, metrics)[number]) == pytest.approx(dict(values)), (metrics, number)
    assert len(found.train_metrics_clientapp) == ROUNDS
    changed = [array for key, array in found.arrays.items() if array.data != start[key].data]
    assert changed, "the strategy has made no model"


class DirectGrid(FleetGrid):
    """A Grid that calls the app for each message, in the process of the ServerApp."""

    def __init__(self, app: ClientApp, nodes: list[int]) -> None:
        self._app, self._own_nodes = app, sorted(nodes)

    def get_node_ids(self) -> Iterable[int]:
        return self._own_nodes

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        del timeout
        return [called(self._app, each.metadata.dst_node_id, None, each.content, each) for each in messages]


def called(
    app: ClientApp,
    node: int,
    header: MessageHeader | None,
    content: RecordDict,
    message: Message | None = None,
) -> Message:
    """Call an app with a message as it is, or with one that is made of a header and a content."""
    if header is not None:
        metadata = Metadata(1, "id", 1, node, "", header.group, header.created_at, header.ttl, header.type)
        message = Message(content, metadata=metadata)
    return app(message, Context(1, node, {}, RecordDict(), {}))


def numbers_model() -> ArrayRecord:
    rng = np.random.default_rng(1)
    return ArrayRecord(
        {"a": Array(rng.normal(size=(40, 5))), "b": Array(rng.normal(size=3).astype(np.float32))}
    )


def numbers_app(mods: list[Any]) -> ClientApp:
    """Return an app that moves the arrays in a direction of the round and of the node."""
    app = ClientApp()

    def train(message: Message, context: Context) -> Message:
        content, node = message.content, context.node_id
        rng = np.random.default_rng([content["config"]["server-round"], node])
        moved = {
            name: Array((array.numpy() + rng.normal(0.1, 0.05, array.shape)).astype(array.dtype))
            for name, array in content["arrays"].items()
        }
        metrics = MetricRecord({"train_loss": rng.uniform(0.5, 1), "num-examples": 5 + node % 11})
        return Message(RecordDict({"arrays": ArrayRecord(moved), "metrics": metrics}), reply_to=message)

    def evaluate(message: Message, context: Context) -> Message:
        mean = float(message.content["arrays"]["a"].numpy().mean())
        metrics = MetricRecord({"eval_mean": mean, "num-examples": 1 + context.node_id % 3})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    app.train(mods=mods)(train)
    app.evaluate()(evaluate)
    return app


def trees_app() -> ClientApp:
    """Return an app that adds a tree of XGBoost."""
    pytest.importorskip("xgboost", reason="pip install -e '.[trees]' -c constraints.txt")
    from tests.unit.device.trees.test_bagging_beside_flower import boosted  # noqa: PLC0415 - needs xgboost

    app = ClientApp()

    def train(message: Message, context: Context) -> Message:
        file = message.content["arrays"]["0"].numpy().tobytes()
        added = boosted(file, slice(context.node_id % 50, None, 50))
        arrays = ArrayRecord([np.frombuffer(added, np.uint8)])
        metrics = MetricRecord({"train_loss": 1.0, "num-examples": 10})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    def evaluate(message: Message, context: Context) -> Message:
        size = float(len(message.content["arrays"]["0"].data))
        metrics = MetricRecord({"bytes": size, "num-examples": 1 + context.node_id % 3})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    app.train()(train)
    app.evaluate()(evaluate)
    return app

"""Flower's strategies, unmodified, over a fleet give what they give where the app is called directly."""

import json
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg as FormerFedAvg
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedTrimmedAvg,
    FedXgbBagging,
    FedXgbCyclic,
    Krum,
)

from fedgrass.console.flower.fleet_grid import FleetGrid
from fedgrass.console.flower.flower_api import (
    ErrorCode,
    Run,
    from_records,
    identify,
    server_context,
    to_parts,
)
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.messages import MessageHeader
from fedgrass.federation.task_messages.node_ids import node_id
from tests.fakes.flower_fleet import Content, FlowerFleet
from tests.fakes.small_fleet import RUN
from tests.unit.console.flower.test_fleet_grid import adding, adding_one_more, grid_of, model

DEVICES = 6


class DirectGrid(Grid):  # type: ignore[misc]  # flwr is not type-checked
    """A grid whose nodes answer at once, in this thread."""

    def __init__(self, nodes: int) -> None:
        self._names = {node_id(f"thing-{number}"): f"thing-{number}" for number in range(nodes)}

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        return Run.create_empty(1)

    def create_message(self, *fields: Any, **options: Any) -> Any:
        return Message(*fields, **options)

    def get_node_ids(self) -> Iterable[int]:
        return sorted(self._names)

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> list[Any]:  # noqa: ARG002
        replies = []
        for message in messages:
            parts = to_parts(message.content)
            header = MessageHeader(type=message.metadata.message_type, ttl=1.0, created_at=0.0)
            data = [bytes(each) for part in parts for each in part.data]
            name = self._names[message.metadata.dst_node_id]
            records, found = WORK[0](name, header, ([part.record for part in parts], data))
            replies.append(Message(from_records(records, list(found)), reply_to=message))
        return replies


WORK: list[Callable[[str, MessageHeader, Content], Content]] = [adding]


def both(strategy: Callable[[], Any], initial: Callable[[], Any], work: Any, rounds: int = 2) -> list[Any]:
    """Return the result of a strategy over a fleet and over a direct grid, with the same random numbers."""
    WORK[0] = work
    fleet = FlowerFleet(DEVICES, work)
    found = []
    for make in (lambda: grid_of(fleet), lambda: DirectGrid(DEVICES)):
        identify(RUN)
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002 - the generators that Flower uses
        found.append(strategy().start(make(), initial(), num_rounds=rounds))
    return found


@pytest.mark.parametrize(
    "strategy",
    [
        FedAvg,
        FedAvgM,
        FedAdam,
        FedMedian,
        FedTrimmedAvg,
        lambda: Krum(num_malicious_nodes=1),
        lambda: Bulyan(num_malicious_nodes=0),
        lambda: DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.3, 1.0, DEVICES),
    ],
    ids=["FedAvg", "FedAvgM", "FedAdam", "FedMedian", "FedTrimmedAvg", "Krum", "Bulyan", "DP"],
)
def test_a_strategy_of_flower_gives_the_same_model_over_a_fleet(strategy: Callable[[], Any]) -> None:
    over_fleet, direct = both(strategy, model, adding_one_more)
    for name in ("a", "b"):
        assert np.allclose(over_fleet.arrays[name].numpy(), direct.arrays[name].numpy(), atol=1e-6)
    assert over_fleet.arrays["a"].numpy().any()


def trees(device: str, header: MessageHeader, content: Content) -> Content:
    """Answer with one tree, as XGBoost's JSON in bytes."""
    got = from_records(*content)
    parts = [MetricRecord({"num-examples": 1})]
    if header.type == "train":
        assert got["arrays"]["0"].numpy().dtype == np.uint8
        file = json.dumps(booster(1, device)).encode()
        record = ArrayRecord([np.frombuffer(file, np.uint8)])
        reply = RecordDict({"arrays": record, "metrics": parts[0]})
    else:
        reply = RecordDict({"metrics": parts[0]})
    made = to_parts(reply)
    return [part.record for part in made], [bytes(data) for part in made for data in part.data]


def booster(count: int, label: str = "") -> dict[str, Any]:
    model_ = {
        "gbtree_model_param": {"num_trees": str(count), "num_parallel_tree": "1"},
        "iteration_indptr": list(range(count + 1)),
        "trees": [{"id": number, "label": label} for number in range(count)],
        "tree_info": [0] * count,
    }
    return {"learner": {"gradient_booster": {"model": model_}}}


@pytest.mark.parametrize("strategy", [FedXgbBagging, FedXgbCyclic])
def test_trees_of_xgboost_are_gathered_over_a_fleet(strategy: Callable[[], Any]) -> None:
    first = np.frombuffer(json.dumps(booster(1)).encode(), np.uint8)
    over_fleet, direct = both(strategy, lambda: ArrayRecord([first]), trees)
    assert over_fleet.arrays["0"].numpy().tobytes() == direct.arrays["0"].numpy().tobytes()


def test_a_main_loop_of_its_own_gets_replies_to_queries_as_they_arrive() -> None:
    def count(device: str, header: MessageHeader, content: Content) -> Content:
        assert header.type == "query.histogram"
        counts = [int(device[-1]), from_records(*content)["config"]["bins"]]
        parts = to_parts(RecordDict({"histogram": MetricRecord({"counts": counts})}))
        return [part.record for part in parts], []

    fleet = FlowerFleet(3, count)
    grid = grid_of(fleet)
    content = RecordDict({"config": ConfigRecord({"bins": 4})})
    messages = [Message(content, node, "query.histogram", group_id="7") for node in grid.get_node_ids()]
    ids = list(grid.push_messages(messages))
    assert [message.metadata.message_id for message in messages] == ids
    assert list(grid.pull_messages(ids)) == []
    fleet.devices_work()
    replies = list(grid.pull_messages(ids))
    assert sorted(reply.content["histogram"]["counts"][0] for reply in replies) == [0, 1, 2]
    assert {reply.metadata.reply_to_message_id for reply in replies} == set(ids)
    assert {reply.metadata.src_node_id for reply in replies} == set(grid.get_node_ids())
    assert fleet.fleet.sent(1).aim == "query.histogram 7"


def test_an_app_of_the_former_api_trains_from_a_devices_parameters() -> None:
    from flwr.common import (  # noqa: PLC0415  # noqa: PLC0415
        Code,
        EvaluateRes,
        FitRes,
        GetParametersRes,
        Status,
        ndarrays_to_parameters,
        parameters_to_ndarrays,
    )
    from flwr.compat.common import recorddict_compat as compat  # noqa: PLC0415

    fine = Status(Code.OK, "")

    def client(device: str, header: MessageHeader, content: Content) -> Content:
        got = from_records(*content)
        if header.type == "get_parameters":
            reply = compat.getparametersres_to_recorddict(
                GetParametersRes(fine, ndarrays_to_parameters([np.zeros(3)])), keep_input=True
            )
        elif header.type == "train":
            ins = compat.recorddict_to_fitins(got, keep_input=True)
            arrays = [array + int(device[-1]) for array in parameters_to_ndarrays(ins.parameters)]
            fit = FitRes(fine, ndarrays_to_parameters(arrays), 1, {})
            reply = compat.fitres_to_recorddict(fit, keep_input=True)
        else:
            ins = compat.recorddict_to_evaluateins(got, keep_input=True)
            loss = float(parameters_to_ndarrays(ins.parameters)[0][0])
            reply = compat.evaluateres_to_recorddict(EvaluateRes(fine, loss, 1, {}))
        parts = to_parts(reply)
        return [part.record for part in parts], [bytes(data) for part in parts for data in part.data]

    fleet = FlowerFleet(3, client)
    final: list[Any] = []

    def server_fn(_context: Any) -> Any:
        strategy = FormerFedAvg(evaluate_fn=lambda number, arrays, _: final.append((number, arrays)))
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=2))

    ServerApp(server_fn=server_fn)(grid_of(fleet), server_context(RUN, {}))
    assert final[-1][0] == 2
    assert np.allclose(final[-1][1], 2.0)
    assert len(fleet.answered) == 1 + 2 * (3 + 3)


def test_a_failure_of_a_device_is_an_error_reply_with_the_reason() -> None:
    fleet = FlowerFleet(
        2, lambda device, *content: "ValueError: no data" if device == "thing-0" else adding(device, *content)
    )
    grid = grid_of(fleet)
    record = RecordDict({"arrays": model()})
    first, second = grid.send_and_receive(
        [Message(record, node_id(f"thing-{each}"), "train") for each in (0, 1)]
    )
    assert first.has_error()
    assert first.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert first.error.reason == "failed: ValueError: no data"
    assert first.metadata.src_node_id == node_id("thing-0")
    assert second.has_content()


def test_a_message_to_an_unknown_node_gets_an_error_reply() -> None:
    grid = grid_of(FlowerFleet(1, adding))
    (reply,) = grid.send_and_receive([Message(RecordDict({"arrays": model()}), 12345, "train")])
    assert reply.error.code == ErrorCode.NODE_UNAVAILABLE
    assert "node 12345 is not a device of this run" in reply.error.reason


def test_an_unknown_message_id_gets_an_error_reply_and_none_is_left_out() -> None:
    grid = grid_of(FlowerFleet(1, adding))
    (reply,) = grid.pull_messages(["nothing", ""])
    assert reply.error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert reply.metadata.reply_to_message_id == "nothing"


def test_a_time_out_leaves_messages_outstanding_and_their_replies_can_still_be_pulled() -> None:
    fleet = FlowerFleet(2, adding)
    fleet.asleep.add("thing-1")
    grid = grid_of(fleet)
    messages = [Message(RecordDict({"arrays": model()}), node, "train") for node in grid.get_node_ids()]
    replies = grid.send_and_receive(messages, timeout=3)
    assert [reply.metadata.src_node_id for reply in replies] == [node_id("thing-0")]
    fleet.asleep.clear()
    fleet.devices_work()
    left = [message.metadata.message_id for message in messages]
    late = [reply for reply in grid.pull_messages(left) if reply.has_content()]
    assert [reply.metadata.src_node_id for reply in late] == [node_id("thing-1")]


def test_replies_come_in_the_order_of_the_messages() -> None:
    fleet = FlowerFleet(4, adding)
    grid = grid_of(fleet)
    nodes: Sequence[int] = list(grid.get_node_ids())[::-1]
    replies = grid.send_and_receive(
        [Message(RecordDict({"arrays": model()}), node, "train") for node in nodes]
    )
    assert [reply.metadata.src_node_id for reply in replies] == nodes


def test_a_message_without_a_time_to_live_is_refused() -> None:
    grid = grid_of(FlowerFleet(1, adding))
    message = Message(RecordDict({"arrays": model()}), node_id("thing-0"), "train", ttl=-1.0)
    with pytest.raises(ValueError, match="its ttl is -1"):
        grid.push_messages([message])


def test_a_group_that_no_announcement_carries_is_refused() -> None:
    grid = grid_of(FlowerFleet(1, adding))
    message = Message(RecordDict({"arrays": model()}), node_id("thing-0"), "train", group_id="g" * 129)
    with pytest.raises(ValueError, match="its group_id has 129 characters"):
        grid.push_messages([message])


def test_numbers_of_numpy_in_a_record_are_sent_and_too_large_ones_are_refused_by_name() -> None:
    parts = to_parts(RecordDict({"metrics": MetricRecord({"loss": np.float64(0.5), "list": [1, 2]})}))
    assert parts[0].record.values == {"loss": 0.5, "list": [1, 2]}
    grid = grid_of(FlowerFleet(1, adding))
    record = RecordDict({"config": ConfigRecord({"large": 2**80})})
    with pytest.raises(UpdateRefused, match="can't serialize ints"):
        grid.push_messages([Message(record, node_id("thing-0"), "train")])


def test_the_arrays_of_a_reply_are_the_bytes_that_were_read() -> None:
    data = Array(np.arange(4.0)).data
    parts = to_parts(RecordDict({"arrays": ArrayRecord({"a": Array(np.arange(4.0))})}))
    assert from_records([parts[0].record], [data])["arrays"]["a"].data is data


def test_the_run_of_the_grid_can_be_replaced_by_a_run_only() -> None:
    grid = FleetGrid(FlowerFleet(1, adding).exchange(), RUN)
    grid.set_run(Run.create_empty(5))
    assert grid.run.run_id == 5
    with pytest.raises(TypeError):
        grid.set_run("run")

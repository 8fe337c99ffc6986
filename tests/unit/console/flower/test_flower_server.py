"""The initial model that a ServerApp passes: recorded at its first message of training."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' -c constraints.txt")
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg as FormerFedAvg
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAdam, FedAvg, Krum

from fedgrass.console.flower.flower_project import read_project
from fedgrass.console.flower.flower_server import (
    initial_arrays,
    load_client_app,
    load_server_app,
    message_types,
)
from fedgrass.federation.errors import SettingsError
from tests.fakes.flower_apps import write_app

MODEL: dict[str, np.ndarray[Any, Any]] = {
    "z.weight": np.ones((2, 3), np.float32),
    "a.count": np.asarray(7, np.int64),
}


def record(**arrays: np.ndarray[Any, Any]) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def app(main: Callable[[Grid, Context], None]) -> ServerApp:
    made = ServerApp()
    made.main()(main)
    return made


@pytest.mark.parametrize("strategy", [FedAvg(), FedAdam(), Krum(), FedAvg(min_available_nodes=3000)])
def test_the_arrays_of_the_first_train_message_are_the_model_in_their_order(strategy: FedAvg) -> None:
    after: list[str] = []

    def main(grid: Grid, context: Context) -> None:
        try:
            strategy.start(
                grid=grid,
                initial_arrays=record(**MODEL),
                train_config=ConfigRecord({"lr": context.run_config["lr"], "many": [1, 2]}),
            )
        except Exception:  # noqa: BLE001 - as careless apps do
            after.append("caught")
        after.append("continued")

    found = initial_arrays(app(main), {"lr": 0.25})
    assert found.arrays is not None
    assert list(found.arrays) == ["z.weight", "a.count"]
    for name, array in MODEL.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert (found.arrays[name].dtype, found.arrays[name].shape) == (array.dtype, array.shape)
    assert found.settings == {"lr": 0.25}
    assert not after


def test_the_lifespan_of_the_app_ends_and_its_record_may_have_another_name() -> None:
    ended: list[str] = []

    def main(grid: Grid, _: Context) -> None:
        content = RecordDict({"extra": record(x=np.zeros(1)), "weights": record(**MODEL)})
        grid.push_messages([Message(content, 5, "train.first")])

    made = app(main)

    @made.lifespan()  # type: ignore[untyped-decorator]
    def lifespan(_: Context) -> Iterator[None]:
        yield
        ended.append("ended")

    found = initial_arrays(made, {}, "weights")
    assert found.arrays is not None
    assert list(found.arrays) == list(MODEL)
    assert ended == ["ended"]
    other = initial_arrays(app(main), {}, "nothing")
    assert other.arrays is not None
    assert list(other.arrays) == ["x"]


def queries(grid: Grid, _: Context) -> None:
    replies = list(grid.send_and_receive([Message(RecordDict(), 5, "query")]))
    assert replies[0].has_content()


def queries_for_ever(grid: Grid, _: Context) -> None:
    while True:
        grid.push_messages(Message(RecordDict(), node, "query") for node in grid.get_node_ids())


def trains_without_arrays(grid: Grid, _: Context) -> None:
    grid.push_messages([Message(RecordDict(), 5, "train")])


@pytest.mark.parametrize(
    ("main", "said"),
    [
        (lambda _grid, _context: None, "the ServerApp ends without a message of the type train"),
        (queries, "ends without a message of the type train (it has sent query, without an answer)"),
        (queries_for_ever, "the ServerApp sends no message of the type train"),
        (trains_without_arrays, "the first train message of the ServerApp has no arrays"),
    ],
)
def test_an_app_that_passes_no_model_is_reported(main: Callable[[Grid, Context], None], said: str) -> None:
    found = initial_arrays(app(main), {})
    assert found.arrays is None
    assert said in found.reason


def test_an_error_of_the_app_before_its_first_message_is_its_own() -> None:
    def main(_grid: Grid, context: Context) -> None:
        context.run_config["nothing"]

    with pytest.raises(KeyError):
        initial_arrays(app(main), {})


def former(parameters: list[np.ndarray[Any, Any]] | None) -> ServerApp:
    def server_fn(_: Context) -> ServerAppComponents:
        initial = None if parameters is None else ndarrays_to_parameters(parameters)
        strategy = FormerFedAvg(initial_parameters=initial)
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=1))

    return ServerApp(server_fn=server_fn)


def test_the_initial_parameters_of_a_former_strategy_are_named_by_their_numbers() -> None:
    arrays = [np.full((2,), number, np.float32) for number in range(12)]
    found = initial_arrays(former(arrays), {})
    assert found.arrays is not None
    assert list(found.arrays) == [str(number) for number in range(12)]
    assert [float(array[0]) for array in found.arrays.values()] == list(range(12))
    without = initial_arrays(former(None), {})
    assert without.arrays is None
    assert without.reason == "the strategy FedAvg of the ServerApp has no initial_parameters"
    assert "neither a main function nor a strategy" in initial_arrays(ServerApp(), {}).reason


def test_the_types_of_messages_of_a_client_app_are_those_of_its_functions() -> None:
    client = ClientApp()
    client.train()(lambda message, _: message)
    client.query("histogram")(lambda message, _: message)
    assert message_types(client) == ["train", "query.histogram"]
    assert message_types(ClientApp(client_fn=lambda _: None)) == ["train", "evaluate"]


@contextlib.contextmanager
def imports_undone() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if name.partition(".")[0] == "mean":
                del sys.modules[name]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"client": "import sklearn_missing\n"},
            "imports 'sklearn_missing', which is not installed here: pip in",
        ),
        ({"client": "import mean.nothing\n"}, "there is no module 'mean.nothing' in "),
        ({"client": "other = 1\n"}, "does not exist: .*client_app.py has no 'app'; correct \\[tool.flwr.app"),
        ({"client": "app = 7\n"}, "the clientapp 'mean.client_app:app' is a int; it must be a ClientApp"),
    ],
)
def test_a_component_that_cannot_be_imported_is_explained(
    tmp_path: Path, parts: dict[str, Any], said: str
) -> None:
    project = read_project(write_app(tmp_path, **parts))
    with imports_undone(), pytest.raises(SettingsError, match=said):
        load_client_app(project)


def test_a_missing_package_is_called_as_the_app_requires_it(tmp_path: Path) -> None:
    text = 'dependencies = ["scikit-image-x>=1"]'
    project = "\n".join(
        text if line.startswith("dependencies") else line
        for line in (write_app(tmp_path) / "pyproject.toml").read_text().splitlines()
    )
    folder = write_app(tmp_path, project=project, server="import scikit_image_x\n")
    with imports_undone(), pytest.raises(SettingsError, match=r"pip install scikit-image-x$"):
        load_server_app(read_project(folder))


def test_both_components_of_an_app_are_imported_from_its_folder(tmp_path: Path) -> None:
    project = read_project(write_app(tmp_path))
    with imports_undone():
        assert message_types(load_client_app(project)) == ["train", "evaluate"]
        found = initial_arrays(load_server_app(project), project.config)
    assert found.arrays is not None
    assert list(found.arrays) == ["b", "a"]
    assert found.settings == {"momentum": 0.9}

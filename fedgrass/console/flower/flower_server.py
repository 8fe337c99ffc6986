"""The ServerApp of a Flower app: how it is imported, and the initial model that it passes.

Importing an app runs its code, so all of this runs in a child process that the command can end.
"""

import importlib
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from components.trainer.flower.app_import import flower_log_level
from fedgrass.console.flower.flower_api import (
    FLOWER_LOGGER,
    ArrayRecord,
    ClientApp,
    ConfigRecord,
    Grid,
    Message,
    Run,
    ServerApp,
    SimpleClientManager,
    identify,
    parameters_to_ndarrays,
    server_context,
)
from fedgrass.console.flower.flower_project import FlowerProject
from fedgrass.console.options import Value
from fedgrass.federation.errors import SettingsError

_RUN = "initial-model"
_ARRAYS = "arrays"  # the record of the model in messages of Flower's strategies
_TRAIN = "train"
_ROUND_KEYS = frozenset({"server-round", "server_round"})
_FIRST_NODES, _MOST_NODES = 8, 8192  # that a ServerApp sees while its first message is awaited
_MOST_OTHERS = 1000  # messages of other types until it is given up
_PACKAGES = {"sklearn": "scikit-learn", "PIL": "pillow", "cv2": "opencv-python", "yaml": "pyyaml"}
Model = dict[str, NDArray[Any]]


class Recorded(NamedTuple):
    """The first message of training that a ServerApp sends, or why it sends none."""

    arrays: Model | None
    reason: str = ""  # empty: there are arrays
    settings: Mapping[str, Value] = {}  # that the message has for the training


def quiet() -> None:
    """Let Flower report warnings only, unless FLWR_LOG_LEVEL asks for more."""
    FLOWER_LOGGER.setLevel(flower_log_level(logging.WARNING))


def load_server_app(project: FlowerProject) -> Any:
    """Import and return the ServerApp of an app; exceptions of its code pass. Raises SettingsError."""
    return _load(project, "serverapp", project.server_app, ServerApp)


def load_client_app(project: FlowerProject) -> Any:
    """Import and return the ClientApp of an app; exceptions of its code pass. Raises SettingsError."""
    return _load(project, "clientapp", project.client_app, ClientApp)


def message_types(client_app: Any) -> list[str]:
    """Return the types of messages for which a ClientApp has functions: ``train``, ``query.histogram``, ...

    Of an app of the former API (``client_fn``), those that its clients may answer: train and evaluate.
    """
    if getattr(client_app, "_call", None) is not None:
        return ["train", "evaluate"]
    names: Iterable[str] = getattr(client_app, "_registered_funcs", {})
    return [name.removesuffix(".default") for name in names]


def initial_arrays(server_app: Any, config: Mapping[str, Value], arrays_key: str = _ARRAYS) -> Recorded:
    """Return the arrays of the first train message that a ServerApp sends, in their order.

    The ServerApp runs until then; of one with ``server_fn``, only the initial parameters of its strategy are
    read, whose arrays are named ``0``, ``1``, ... as Flower names them.

    Args:
        server_app: the ServerApp.
        config: of the run, flat.
        arrays_key: name of the record in the message; without it, the first record of arrays is taken.

    Raises:
        Exception: whatever the app's code raises.
    """
    identify(_RUN)
    context = server_context(_RUN, config)
    if getattr(server_app, "_main", None) is None:
        return _initial_parameters(server_app, context)
    grid = RecordingGrid()
    try:
        server_app(grid, context)
    except _Recorded as ended:
        return _arrays_of(ended.message, arrays_key)
    except Exception:
        if not grid.others:
            raise
        # It needs replies to its first messages, and this Grid has none.
    sent = f" (it has sent {', '.join(sorted(grid.others))}, without an answer)" if grid.others else ""
    return Recorded(None, f"the ServerApp ends without a message of the type train{sent}")


class _Recorded(BaseException):
    """Ends a ServerApp at its first train message; None: it sends only others.

    A BaseException, so that the app does not catch it.
    """

    def __init__(self, message: Any) -> None:
        super().__init__()
        self.message = message


class RecordingGrid(Grid):  # type: ignore[misc]  # flwr is not type-checked
    """A Grid without devices, which ends the ServerApp at its first train message.

    The number of nodes doubles whenever the app asks for them, so that strategies that wait for many
    continue. Messages of other types get no reply.
    """

    def __init__(self) -> None:
        self._nodes = _FIRST_NODES
        self._run = Run.create_empty(1)
        self._sent = 0
        self.others: set[str] = set()  # types of the messages sent so far

    def set_run(self, run: Any) -> None:
        """Take another run."""
        self._run = run

    @property
    def run(self) -> Any:
        """An empty run."""
        return self._run

    def create_message(
        self, content: Any, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Any:
        """Return a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of nodes that do not exist."""
        nodes = range(2, 2 + self._nodes)
        self._nodes = min(2 * self._nodes, _MOST_NODES)
        return list(nodes)

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str]:
        """End the app if a train message is among the messages, otherwise drop them."""
        for message in messages:
            kind = message.metadata.message_type
            if kind.partition(".")[0] == _TRAIN:
                raise _Recorded(message)
            self.others.add(kind)
            self._sent += 1
            if self._sent > _MOST_OTHERS:
                raise _Recorded(None)
        return []

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:  # noqa: ARG002 - Flower's interface
        """Return no reply."""
        return []

    def send_and_receive(
        self,
        messages: Iterable[Any],
        *,
        timeout: float | None = None,  # noqa: ARG002 - Flower's interface
    ) -> Iterable[Any]:
        """Do as ``push_messages``, and return no reply."""
        self.push_messages(messages)
        return []


def _arrays_of(message: Any, arrays_key: str) -> Recorded:
    if message is None:
        return Recorded(None, "the ServerApp sends no message of the type train")
    records = {name: record for name, record in message.content.items() if isinstance(record, ArrayRecord)}
    record = records.get(arrays_key) or next(iter(records.values()), None)
    if not record:
        return Recorded(None, "the first train message of the ServerApp has no arrays")
    arrays = {name: np.asarray(array.numpy()) for name, array in record.items()}
    return Recorded(arrays, settings=_settings_of(message))


def _settings_of(message: Any) -> dict[str, Value]:
    """Return the single values of a message's configuration, without the number of the round."""
    return {
        key: value
        for record in message.content.values()
        if isinstance(record, ConfigRecord)
        for key, value in record.items()
        if key not in _ROUND_KEYS and isinstance(value, bool | int | float | str)
    }


def _initial_parameters(server_app: Any, context: Any) -> Recorded:
    """Return the initial parameters of a ServerApp's strategy, for apps of the former API."""
    names = ("_server_fn", "_strategy", "_server")
    make, strategy, server = (getattr(server_app, name, None) for name in names)
    if make is not None:
        components = make(context)
        strategy, server = components.strategy, components.server
    strategy = strategy or getattr(server, "strategy", None)
    if strategy is None:
        return Recorded(None, "the ServerApp has neither a main function nor a strategy")
    parameters = strategy.initialize_parameters(SimpleClientManager())
    if parameters is None:
        kind = type(strategy).__name__
        return Recorded(None, f"the strategy {kind} of the ServerApp has no initial_parameters")
    return Recorded({str(number): array for number, array in enumerate(parameters_to_ndarrays(parameters))})


def _load(project: FlowerProject, key: str, reference: str, kind: type) -> Any:
    """Import a component of an app as Flower does: with the app's folder first on the module path."""
    module, _, attributes = reference.partition(":")
    folder = str(project.folder.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        _explain_missing(project, key, module, error)
    for name in attributes.split("."):
        if not hasattr(found, name):
            message = (
                f"the {key} {reference!r} does not exist: {_path(found)} has no {name!r}; correct"
                " [tool.flwr.app.components]"
            )
            raise SettingsError(message)
        found = getattr(found, name)
    if not isinstance(found, kind):
        message = f"the {key} {reference!r} is a {type(found).__name__}; it must be a {kind.__name__} of flwr"
        raise SettingsError(message)
    return found


def _path(module: Any) -> str:
    return getattr(module, "__file__", None) or str(module)


def _explain_missing(project: FlowerProject, key: str, module: str, error: ModuleNotFoundError) -> NoReturn:
    missing = error.name or ""
    top = missing.partition(".")[0]
    if top == module.partition(".")[0] or _is_own(project.folder, top):
        message = (
            f"the {key} cannot be imported: there is no module {missing!r} in {project.folder}; correct"
            " [tool.flwr.app.components] or the import"
        )
    else:
        package = _package(top, project.dependencies)
        listed = _names(project.dependencies)
        more = "" if package in listed else " and add it to the dependencies in pyproject.toml"
        message = f"the {key} imports {missing!r}, which is not installed here: pip install {package}{more}"
    raise SettingsError(message) from error


def _is_own(folder: Path, top: str) -> bool:
    return (folder / f"{top}.py").is_file() or (folder / top).is_dir()


def _package(module: str, dependencies: Sequence[str]) -> str:
    """Return the package that probably has a module: of the app's requirements, if one has its name."""
    named = canonicalize_name(_PACKAGES.get(module, module))
    return next((one for one in _names(dependencies) if one == named), named)


def _names(dependencies: Sequence[str]) -> list[str]:
    found = []
    for line in dependencies:
        try:
            found.append(str(canonicalize_name(Requirement(line).name)))
        except InvalidRequirement:
            continue  # reported by `fedgrass flower add`, which installs it
    return found

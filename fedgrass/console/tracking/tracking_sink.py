"""The interface of a sink, and how sinks are named on the command line."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Protocol

from msgspec import Struct

from fedgrass.console.aws_clients import Clients
from fedgrass.console.deferred import deferred
from fedgrass.console.tracking.tracked_run import Key, TrackedModel, TrackedRound, TrackedRun
from fedgrass.federation.conversion import nearest
from fedgrass.federation.errors import SettingsError
from fedgrass.sources import install_extra


class Recorded(Struct, frozen=True, kw_only=True):
    """What a sink has of a run already, so that nothing is recorded twice."""

    attempts: frozenset[Key] = frozenset()
    models: frozenset[int] = frozenset()


class Sink(Protocol):
    """Where the figures and models of a run go.

    Any method may raise any exception: the run is unaffected, the sink is begun again later, and gets what
    ``begin`` does not return as recorded. The calls are in the order of the methods below.
    """

    name: str  # as on the command line

    def begin(self, tracked: TrackedRun) -> Recorded:
        """Open the record of a run, a new one or an earlier one; return what it contains already."""

    def add_round(self, found: TrackedRound) -> bool:
        """Record the figures of one ended attempt at a round; return whether this sink records such."""

    def add_model(self, model: TrackedModel) -> bool:
        """Record a model; return whether this sink records models."""

    def update(self, tracked: TrackedRun) -> None:
        """Make all that was added durable, and record the state of the run, which may have ended."""

    def close(self) -> None:
        """Release what ``begin`` has opened; also after an error."""


class _Kind(Struct, frozen=True, kw_only=True):
    open: Callable[[str, Clients], Sink]
    form: str  # of the name
    package: str = ""  # that has to be installed
    extra: str = ""  # which installs it
    target: bool = True  # whether something has to follow the colon


_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "jsonl": _Kind(open=deferred("fedgrass.console.tracking.json_lines:JsonLines"), form="jsonl:FILE"),
        "mlflow": _Kind(
            open=deferred("fedgrass.console.tracking.mlflow_sink:MlflowSink"),
            form="mlflow:URL of the tracking server",
            package="mlflow",
            extra="mlflow",
        ),
        "sagemaker": _Kind(
            open=deferred("fedgrass.console.tracking.sagemaker_registry:SageMakerRegistry"),
            form="sagemaker:GROUP of model packages, or sagemaker:",
            target=False,
        ),
        "tensorboard": _Kind(
            open=deferred("fedgrass.console.tracking.tensorboard_events:TensorBoardEvents"),
            form="tensorboard:FOLDER",
            package="tensorboardX",
            extra="tensorboard",
        ),
        "otlp": _Kind(
            open=deferred("fedgrass.console.tracking.otlp_traces:OtlpTraces"),
            form="otlp:URL of the collector",
            package="opentelemetry.exporter.otlp.proto.http",
            extra="otel",
        ),
    }
)


def open_sink(name: str, clients: Clients) -> Sink:
    """Return the sink that a name of the command line means, such as ``jsonl:runs.jsonl``.

    Nothing is written or connected before its ``begin``.

    Args:
        name: the kind, a colon, and where to.
        clients: returns the boto3 client of a service.

    Raises:
        SettingsError: there is no such kind, its target is missing, or its extra is not installed.
    """
    kind_name, _, target = name.partition(":")
    kind = _KINDS.get(kind_name)
    if kind is None:
        message = f"--sink {name}: there is no kind {kind_name!r} of sink; {nearest(kind_name, _KINDS)}"
        raise SettingsError(message)
    if kind.target and not target:
        message = f"--sink {name}: it takes {kind.form}"
        raise SettingsError(message)
    if kind.package and not _is_installed(kind.package):
        message = f"--sink {name} needs the extra {kind.extra!r}: {install_extra(kind.extra)}"
        raise SettingsError(message)
    return kind.open(target, clients)


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of a package around it
        return False

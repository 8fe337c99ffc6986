"""The unit of work of a grid: one simulation, from JSON to JSON, on whatever machine it runs."""

import time
import traceback
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec import Struct

from fedgrass import __version__
from fedgrass.console.deferred import deferred
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.simulation.grids.cell_figures import CellFigures, Simulated, figures_of
from fedgrass.simulation.simulation_spec import SimulationSpec

_LARGEST_FILE = 1024**3  # bytes of a trace
_MOST_SOURCES = 2000  # files of a task's folder
_LONGEST_TRACEBACK = 4000  # characters

# Imports PyTorch.
run_spec: Callable[..., Simulated] = deferred("fedgrass.simulation.simulation:run_spec")


class CellWork(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a worker gets: ten thousand of these fit into the limits of every executor."""

    id: str  # of the simulation, see ``identify``
    spec: SimulationSpec
    workers: int = 1  # processes that train its clients


class CellOutcome(Struct, frozen=True, kw_only=True):
    """What became of a simulation; stored as OUT/cells/<id>.json.

    Attributes:
        id: of the simulation.
        spec: what it was.
        figures: None: it failed.
        error: why it failed, in one line; empty: it did not.
        detail: of a failure that is not the user's: the end of the traceback.
        seconds: how long it took, in real time.
        fedgrass: version that computed it.
    """

    id: str
    spec: SimulationSpec
    figures: CellFigures | None = None
    error: str = ""
    detail: str = ""
    seconds: float = 0.0
    fedgrass: str = __version__


def identify(spec: SimulationSpec, files: dict[str, str] | None = None) -> str:
    """Return the identity of a simulation: equal ones have equal results.

    Args:
        spec: the simulation.
        files: hashes of files that were read before, by path; those read now are added.

    Raises:
        SettingsError: a file that it names cannot be read.
    """
    known = {} if files is None else files
    named = [
        name for name in (spec.task_path, spec.fleet.trace, spec.learning_curve, *spec.strategies) if name
    ]
    for name in named:
        if name not in known:
            known[name] = _hash_of(Path(name))
    content = msgspec.json.encode((spec, {name: known[name] for name in named}), order="deterministic")
    return sha256(content).hexdigest()[:32]


def _hash_of(path: Path) -> str:
    """Return the hash of a file, or of the Python files of a folder."""
    files = sorted(path.rglob("*.py"))[:_MOST_SOURCES] if path.is_dir() else [path]
    digest = sha256()
    try:
        for file in files:
            digest.update(str(file.relative_to(path)).encode() + b"\0")
            with file.open("rb") as opened:
                digest.update(sha256(opened.read(_LARGEST_FILE)).digest())
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise SettingsError(message) from error
    return digest.hexdigest()


def run_cell(work: bytes) -> bytes:
    """Run one simulation; return its outcome, also of one that failed.

    Args:
        work: a ``CellWork`` as JSON.

    Returns:
        A ``CellOutcome`` as JSON.
    """
    cell = msgspec.json.decode(work, type=CellWork)
    return msgspec.json.encode(simulate_cell(cell))


def simulate_cell(cell: CellWork, run: Callable[..., Simulated] | None = None) -> CellOutcome:
    """Return the outcome of a simulation.

    Args:
        cell: the simulation.
        run: runs it, as ``run_spec``.
    """
    begun = time.monotonic()
    figures, error, detail = None, "", ""
    try:
        figures = figures_of((run or run_spec)(cell.spec, workers=cell.workers, report=_ignore))
    except FedgrassError as found:
        error = str(found)
    except MemoryError:
        error = "there was not enough memory for it: run fewer at a time with --workers, or lower `devices`"
    except Exception as found:  # noqa: BLE001 - one failed cell must not end the others
        error = f"internal error, please report it: {type(found).__name__}: {found}"
        detail = traceback.format_exc()[-_LONGEST_TRACEBACK:]
    return CellOutcome(
        id=cell.id,
        spec=cell.spec,
        figures=figures,
        error=error,
        detail=detail,
        seconds=time.monotonic() - begun,
    )


def _ignore(line: str) -> None:
    """Drop a line of progress: a grid shows its own."""
    del line


def decode_outcome(content: bytes, cell: CellWork) -> CellOutcome:
    """Return a worker's outcome.

    Raises:
        ValueError: it is not the outcome of this simulation.
    """
    try:
        outcome = msgspec.json.decode(content, type=CellOutcome)
    except msgspec.MsgspecError as error:
        message = f"the worker returned no outcome: {error}"
        raise ValueError(message) from error
    if outcome.id != cell.id:
        message = f"the worker returned the outcome of {outcome.id} instead of {cell.id}"
        raise ValueError(message)
    return outcome


def effort_of(spec: SimulationSpec, settings: Mapping[str, object]) -> float:
    """Return roughly how many trainings a simulation has, to estimate how long it takes."""
    devices = spec.devices or 1
    asked: float = devices
    count, fraction, rounds = (settings.get(name) for name in ("count", "fraction", "rounds"))
    if isinstance(count, int):
        asked = min(count, devices)
    elif isinstance(fraction, float):
        asked = devices * fraction
    return max(1.0, asked) * (rounds if isinstance(rounds, int) else 1)

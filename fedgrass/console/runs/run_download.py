"""Download the files of a run, as they are after a demo: the model, the history and the picture."""

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from fedgrass.console import stack
from fedgrass.console.results import show_result
from fedgrass.console.runs import fleet_operator, history
from fedgrass.console.runs.fleet_operator import Operator, RoundRecord
from fedgrass.console.terminal import complain, say
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import State, Work
from fedgrass.federation.runs import LIVING, Run


class Downloaded(Struct, frozen=True, kw_only=True):
    """The files of a run that were written."""

    run: str
    folder: str
    files: list[str]  # names of the files in the folder
    model: int | None  # number of the global model in model.safetensors; null: the run has none
    model_bytes: int | None


@stack.refusals()
def download(stack_name: str, name: str, output: str, *, out: Path, model: int | None) -> None:
    """Write the files of a run into a folder named after it.

    Args:
        stack_name: the stack.
        name: name of the run.
        output: ``text`` or ``json``.
        out: the folder in which the run's folder is made.
        model: number of the global model; None: the latest.

    Raises:
        SettingsError: the run or the model does not exist, or a file cannot be written.
    """
    operator = fleet_operator.open_operator(stack_name)
    run = operator.run(name)
    if run.state in LIVING:
        complain(f"run {name!r} is {run.state}: these are its files so far")
    show_result(write_files(operator, run, out / name, model), output, _draw)


def write_files(operator: Operator, run: Run, folder: Path, model: int | None = None) -> Downloaded:
    """Write model.safetensors, history.json and accuracy.png; see ``download``."""
    records = list(operator.rounds(run))
    number = latest_model(run, records) if model is None else model
    data = None if number is None else _model(operator, run, number)
    try:
        history.write(folder, run, [history.summarize(record, {}) for record in records], data, {})
    except OSError as error:
        message = f"{folder} cannot be created: {error.strerror}; choose another folder with --out"
        raise SettingsError(message) from error
    files = ["accuracy.png", "history.json", *(["model.safetensors"] if data is not None else [])]
    return Downloaded(
        run=run.name,
        folder=str(folder),
        files=files,
        model=number,
        model_bytes=None if data is None else len(data),
    )


def latest_model(run: Run, records: Sequence[RoundRecord]) -> int | None:
    """Return the number of the run's latest global model; None if its rounds make none.

    Before the first training round has closed, that is the initial model, 0.
    """
    if run.settings.statistics or run.settings.has_server_app:
        return None
    made = [
        record.round.number
        for record in records
        if record.round.state is State.CLOSED and record.round.work is Work.TRAIN
    ]
    return max(made, default=0)


def _model(operator: Operator, run: Run, number: int) -> bytes:
    try:
        return operator.model(run.name, number)
    except KeyError as error:
        message = (
            f"run {run.name!r} has no model {number}: there is no object"
            f" {object_keys.model(run.name, number)}; `fedgrass run show {run.name}` shows its rounds"
        )
        raise SettingsError(message) from error


def _draw(found: Downloaded) -> None:
    which = "" if found.model is None else f"; the model is that of round {found.model}"
    say(f"{found.folder}/ has {', '.join(found.files)}{which}")

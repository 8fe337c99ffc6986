"""Export a model to other programs: as safetensors, as a PyTorch ``state_dict``, or as ONNX with its task."""

import tempfile
from pathlib import Path
from typing import Any

import msgspec

from components.runtime.atomic_file import publish_file, unfinished
from components.trainer.tasks.registry import BUILT_IN
from fedgrass.console import stack
from fedgrass.console.models.child_work import given_task, in_child
from fedgrass.console.models.model_catalogue import ModelCatalogue, ModelEntry
from fedgrass.console.models.model_displays import when
from fedgrass.console.models.model_pull import (
    PulledModel,
    check_target,
    draw_pulled,
    fetch_model,
    progress_on_terminal,
)
from fedgrass.console.results import show_result
from fedgrass.console.runs.fleet_operator import Operator, open_operator
from fedgrass.federation.errors import SettingsError

_ENDINGS = {"safetensors": "safetensors", "pytorch": "pt", "onnx": "onnx"}


@stack.refusals()
def export(  # noqa: PLR0913 - the options of the command
    stack_name: str,
    output: str,
    *,
    given: str,
    task: str,
    kind: str,
    out: Path | None,
    task_class: str,
    task_path: Path,
    options: tuple[str, ...],
    force: bool,
) -> None:
    """Write a model to a file of another format.

    Args:
        stack_name: the stack.
        output: ``text`` or ``json``.
        given: RUN/ROUND, or an alias of the task.
        task: of the alias.
        kind: ``safetensors``, ``pytorch`` or ``onnx``.
        out: the file; None: named after the model, in the current folder.
        task_class: the task's code: a built-in task, or ``module:ClassName``; empty: that of the model's task
            if it is built in, as far as the format needs one.
        task_path: folder of the module.
        options: of the task, as KEY=VALUE.
        force: whether to replace an existing file.
    """
    operator = open_operator(stack_name)
    catalogue = ModelCatalogue(operator)
    entry = catalogue.entry(catalogue.resolve(given, task))
    target = out or Path(f"{entry.run}-{entry.round}.{_ENDINGS[kind]}")
    check_target(target, force=force)
    if kind == "onnx" and not task_class:
        if entry.task not in BUILT_IN:
            message = (
                f"the export to ONNX needs the code of the task {entry.task!r}: --task-class module:ClassName"
                " --task-path FOLDER"
            )
            raise SettingsError(message)
        task_class = entry.task
    code = given_task(task_class, task_path, options, _shared(operator, entry))
    show_result(export_model(operator, entry, kind, target, code), output, draw_pulled)


def export_model(operator: Any, entry: ModelEntry, kind: str, target: Path, code: Any) -> PulledModel:
    """Write a model to a file of a format; ``code`` is the task for the child process, or None.

    Exits if the child process fails, which has reported why.

    Raises:
        SettingsError: the model cannot be fetched, or the file not be written.
    """
    about = {
        "fedgrass.model": entry.model,
        "fedgrass.task": entry.task,
        "fedgrass.sha256": entry.sha256,
        "fedgrass.made_at": f"{when(entry.made_at)} UTC",
    }
    note = ""
    with tempfile.TemporaryDirectory(prefix="fedgrass-model-") as folder:
        model, part = Path(folder) / "model.safetensors", unfinished(target)
        fetch_model(operator.bucket, entry, model, progress_on_terminal())
        files = {"model": str(model), "target": str(part), "task": code}
        try:
            if kind == "pytorch":
                note = in_child("pytorch_files:export_in_child", **files)["note"]
            elif kind == "onnx":
                note = in_child("onnx_files:export_in_child", about=about, **files)["note"]
            else:
                if code:
                    in_child("fitting_models:check_in_child", model=str(model), task=code)
                part.write_bytes(model.read_bytes())
            publish_file(part, target)
        except OSError as error:
            message = f"{target} cannot be written: {error.strerror}"
            raise SettingsError(message) from error
        finally:
            part.unlink(missing_ok=True)
    return PulledModel(
        model=entry.model,
        task=entry.task,
        file=str(target),
        format=kind,
        bytes=target.stat().st_size,
        sha256=entry.sha256,
        note=note,
    )


def _shared(operator: Operator, entry: ModelEntry) -> tuple[str, ...]:
    """Return the run's setting ``shared``; empty for an imported model."""
    if entry.origin == "imported":
        return ()
    found = msgspec.to_builtins(operator.run(entry.run).settings.shared)
    return tuple(found or ())

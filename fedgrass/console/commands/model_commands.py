"""``fedgrass model``: list, fetch, compare, promote, export and import models. See models/."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fedgrass.console.command_line import ON_STACK, Output, StackOptions, command_group, whole_number
from fedgrass.console.deferred import deferred

app = command_group("model", "List, fetch, compare, promote, export and import models.")

_list = deferred("fedgrass.console.models.model_displays:list_models")
_show = deferred("fedgrass.console.models.model_displays:show_model")
_pull = deferred("fedgrass.console.models.model_pull:pull")
_export = deferred("fedgrass.console.models.model_export:export")
_diff = deferred("fedgrass.console.models.model_comparison:diff")
_promote = deferred("fedgrass.console.models.alias_moves:promote")
_rollback = deferred("fedgrass.console.models.alias_moves:rollback")
_import = deferred("fedgrass.console.models.model_import:import_model")
_convert = deferred("fedgrass.console.models.pickle_conversion:convert")
_HERE = Path()


@app.command(name="list")
def list_models(
    run: str = "",
    /,
    *,
    task: str = "",
    last: Annotated[int, whole_number(0, 10**6)] = 10,
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """List the models of a run, of a task, or all, with size, metrics, time and aliases.

    Args:
        run: only the models of this run.
        task: only models of this task.
        last: at most this number of each run, the latest; 0: all.
    """
    access.use()
    _list(access.stack, output, run=run, task=task, last=last)


@app.command
def show(model: str, /, *, task: str = "", access: StackOptions = ON_STACK, output: Output = "text") -> None:
    """Show where a model is from: run, parent, the replies that made it, settings, versions of code.

    Args:
        model: RUN/ROUND, such as digits-1/5 (0 is the initial model), or an alias of --task, such as
            production; latest is the newest.
        task: the task of an alias.
    """
    access.use()
    _show(access.stack, output, given=model, task=task)


@app.command
def pull(
    model: str,
    /,
    *,
    task: str = "",
    out: Path | None = None,
    force: bool = False,
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Fetch a model as a safetensors file, checked by its SHA-256.

    Args:
        model: RUN/ROUND, or an alias of --task.
        task: the task of an alias.
        out: the file to write (RUN-ROUND.safetensors).
        force: replace an existing file.
    """
    access.use()
    _pull(access.stack, output, given=model, task=task, out=out, force=force)


@app.command
def export(
    model: str,
    /,
    *,
    kind: Annotated[Literal["safetensors", "pytorch", "onnx"], Parameter(name="--format")],
    task: str = "",
    out: Path | None = None,
    task_class: str = "",
    task_path: Path = _HERE,
    option: list[str] | None = None,
    force: bool = False,
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Write a model for other programs: safetensors, a PyTorch state_dict, or ONNX with the task's module.

    Args:
        model: RUN/ROUND, or an alias of --task.
        kind: pytorch is read by torch.load(weights_only=True); onnx needs the task's code, and the extra
            `onnx`.
        task: the task of an alias.
        out: the file to write (RUN-ROUND.safetensors, .pt or .onnx).
        task_class: the task's code, with which the model is compared: a built-in task, or module:ClassName.
        task_path: folder of that module (current folder).
        option: KEY=VALUE, an option of the task, such as folder=/data; may be repeated.
        force: replace an existing file.
    """
    access.use()
    _export(
        access.stack,
        output,
        given=model,
        task=task,
        kind=kind,
        out=out,
        task_class=task_class,
        task_path=task_path,
        options=tuple(option or ()),
        force=force,
    )


@app.command
def diff(
    before: str,
    after: str,
    /,
    *,
    task: str = "",
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Show what differs between two models, array by array: shapes, types, norms, cosine.

    Args:
        before: RUN/ROUND, an alias of --task, or a safetensors file.
        after: as before.
        task: the task of aliases.
    """
    access.use()
    _diff(access.stack, output, before=before, after=after, task=task)


@app.command
def promote(
    model: str,
    /,
    *,
    alias: str,
    task: str = "",
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Let an alias, such as production, name a model: predictors that follow it serve that model.

    Args:
        model: RUN/ROUND, or another alias of --task.
        alias: the alias to move; a new one is made.
        task: the task of an alias; with RUN/ROUND, the task that the model must be of.
    """
    access.use()
    _promote(access.stack, output, given=model, alias=alias, task=task)


@app.command
def rollback(*, alias: str, task: str, access: StackOptions = ON_STACK, output: Output = "text") -> None:
    """Let an alias name the model before its last promotion again.

    Args:
        alias: the alias to move.
        task: the task of the alias.
    """
    access.use()
    _rollback(access.stack, output, alias=alias, task=task)


@app.command(name="import")
def import_model(
    file: Path,
    /,
    *,
    name: str,
    task: str,
    task_class: str = "",
    task_path: Path = _HERE,
    option: list[str] | None = None,
    no_check: bool = False,
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Store a model file as NAME/0, from which runs start with --continue-from NAME/0.

    Args:
        file: a safetensors file, or a PyTorch state_dict (weights only).
        name: name of the model; no run may have it.
        task: the task whose model it is.
        task_class: the task's code, with which the model is compared: a built-in task, or module:ClassName.
        task_path: folder of that module (current folder).
        option: KEY=VALUE, an option of the task, such as folder=/data; may be repeated.
        no_check: do not compare the model with the code of a built-in task.
    """
    access.use()
    _import(
        access.stack,
        output,
        file=file,
        name=name,
        task=task,
        task_class=task_class,
        task_path=task_path,
        options=tuple(option or ()),
        check=not no_check,
    )


@app.command(name="convert-pickle")
def convert_pickle(
    file: Path, /, *, out: Path, yes: bool = False, force: bool = False, output: Output = "text"
) -> None:
    """Convert a legacy pickle of arrays to safetensors, on this machine; explains the risk, and asks.

    Args:
        file: the pickle, or a checkpoint of PyTorch.
        out: the safetensors file to write.
        yes: do not ask.
        force: replace an existing file.
    """
    _convert(output, source=file, out=out, yes=yes, force=force)

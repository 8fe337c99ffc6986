"""``fedgrass task new``: create the file of a task and its test from templates."""

import importlib.util
import keyword
from pathlib import Path

from components.trainer.tasks.registry import BUILT_IN
from fedgrass.console.terminal import say
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import checked_name

_TEMPLATES = Path(__file__).parent / "templates"
_FILES = ("example_task.py", "test_example_task.py")


def new_command(name: str, folder: Path) -> None:
    """Create the files of a task, and print what to do next."""
    file, test = write_task(name, folder)
    path = f" --path {folder}" if folder != Path() else ""
    say(f"wrote {file} and {test}: add your model and data, then")
    say(f"  fedgrass task check {file.stem}:{class_of(name)}{path}")


def write_task(name: str, folder: Path) -> list[Path]:
    """Write the two files of task ``name`` to ``folder``, which is created if necessary; return their paths.

    Raises:
        SettingsError: the name cannot be used, a file exists already, or a file cannot be written.
    """
    module = _module_of(checked_name("task", name), folder)
    names = {
        "example_task": module,
        "example-task": name,
        "ExampleTask": class_of(name),
    }
    targets = [folder / file.replace("example_task", module) for file in _FILES]
    for target in targets:
        if target.exists():
            message = f"{target} exists already and is not overwritten: choose another name or --folder"
            raise SettingsError(message)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, target in zip(_FILES, targets, strict=True):
            text = (_TEMPLATES / file).read_text(encoding="utf-8")
            for old, new in names.items():
                text = text.replace(old, new)
            with target.open("x") as opened:
                opened.write(text)
    except OSError as error:
        message = f"the task cannot be written to {error.filename or folder}: {error.strerror}"
        raise SettingsError(message) from error
    return targets


def class_of(name: str) -> str:
    """Return the class name of a task: WindPower for wind-power."""
    return "".join(part.capitalize() for part in name.replace("-", "_").split("_"))


def _module_of(name: str, folder: Path) -> str:
    module = name.replace("-", "_")
    if name in BUILT_IN:
        message = f"{name!r} is a built-in task: choose another name"
        raise SettingsError(message)
    if keyword.iskeyword(module):
        message = f"{name!r} is a keyword of Python and cannot be the name of a module: choose another name"
        raise SettingsError(message)
    found = importlib.util.find_spec(module)
    if found and Path(found.origin or "").parent.absolute() != folder.absolute():
        message = f"the Python module {module!r} exists already and would hide yours: choose another name"
        raise SettingsError(message)
    return module

"""``fedgrass task new``: the file of a task, with its test, to be filled in."""

import importlib.util
import keyword
from pathlib import Path

from components.trainer.tasks.registry import BUILT_IN
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.names import checked_name

TEMPLATES = Path(__file__).parent / "templates"
FILES = ("example_task.py", "test_example_task.py")


def write_task(name: str, folder: Path) -> list[Path]:
    """Write the two files of task ``name`` into ``folder``, which is made if need be; return them.

    Raises:
        SettingsError: the name cannot be used, a file is there already, or nothing can be written.
    """
    module = _module_of(checked_name("task", name), folder)
    names = {
        "example_task": module,
        "example-task": name,
        "ExampleTask": class_of(name),
    }
    targets = [folder / file.replace("example_task", module) for file in FILES]
    for target in targets:
        if target.exists():
            message = f"{target} is there already, and is not overwritten: give another name or --folder"
            raise SettingsError(message)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, target in zip(FILES, targets, strict=True):
            text = (TEMPLATES / file).read_text(encoding="utf-8")
            for old, new in names.items():
                text = text.replace(old, new)
            with target.open("x") as opened:
                opened.write(text)
    except OSError as error:
        message = f"the task cannot be written to {error.filename or folder}: {error.strerror}"
        raise SettingsError(message) from error
    return targets


def class_of(name: str) -> str:
    """Return the name of the class: WindPower for wind-power."""
    return "".join(part.capitalize() for part in name.replace("-", "_").split("_"))


def _module_of(name: str, folder: Path) -> str:
    module = name.replace("-", "_")
    if name in BUILT_IN:
        message = f"{name!r} is a built-in task: give yours another name"
        raise SettingsError(message)
    if keyword.iskeyword(module):
        message = f"{name!r} is a word of Python's, and cannot name a file of it: give another name"
        raise SettingsError(message)
    found = importlib.util.find_spec(module)
    if found and Path(found.origin or "").parent.absolute() != folder.absolute():
        message = f"there is a Python module {module!r} already, which would hide yours: give another name"
        raise SettingsError(message)
    return module

"""Work on model files that needs PyTorch or a task: done by a child process, which a task may crash."""

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedgrass.console.deferred import deferred
from fedgrass.console.options import parse_key_values
from fedgrass.console.terminal import complain

_run_in_child = deferred("fedgrass.local.task_process:run_in_child")
_FOLDER = "fedgrass.local.model_files"


def in_child(function: str, **options: Any) -> dict[str, Any]:
    """Run ``module:function`` of fedgrass/local/model_files in a child process; return what it found.

    If it fails, the child has reported why, and this process exits with its code.

    Args:
        function: it gets ``options``, with the path ``result`` to write its findings to as JSON.
        options: JSON values and paths.
    """
    with tempfile.TemporaryDirectory(prefix="fedgrass-model-") as folder:
        result = Path(folder) / "result.json"
        if code := _run_in_child(f"{_FOLDER}.{function}", {**options, "result": str(result)}, complain):
            sys.exit(code)
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return found


def given_task(
    name: str, path: Path, options: tuple[str, ...], shared: tuple[str, ...] = ()
) -> Mapping[str, Any] | None:
    """Return the task that the options of a command name, for the child process; None without a name.

    Args:
        name: a built-in task, or ``module:ClassName``.
        path: folder of the module.
        options: of the task, as KEY=VALUE.
        shared: the run's setting ``shared``.

    Raises:
        SettingsError: an option is not KEY=VALUE.
    """
    if not name:
        return None
    return {
        "name": name,
        "path": str(path),
        "options": parse_key_values("--option", options),
        "shared": list(shared),
    }

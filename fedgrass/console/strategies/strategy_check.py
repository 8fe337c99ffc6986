"""Import custom strategies as the averager would, before anything is uploaded.

The import runs in a child process (strategy_import.py) that finds only what the averager has, so a strategy
that imports torch is refused here instead of when a run is started.
"""

import ast
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

import package
from fedgrass.console.strategies import strategy_import
from fedgrass.console.strategies.custom_strategies import THIRD_PARTY, CustomStrategy, write_files
from fedgrass.federation.errors import SettingsError

IMPORT_SECONDS = 60.0
_HAS = (
    "the averager has Python's standard library, numpy, msgspec, safetensors, xxhash, boto3 and"
    " fedgrass.federation"
)


def checked(strategies: Sequence[CustomStrategy]) -> list[CustomStrategy]:
    """Return strategies with the classes that they define.

    Raises:
        SettingsError: one cannot be imported with what the averager has, defines no strategy, or defines one
            that the averager would refuse.
    """
    if not strategies:
        return []
    for one in strategies:
        _check_syntax(one)
    with tempfile.TemporaryDirectory(prefix="fedgrass-strategy-") as name:
        folder = Path(name)
        archive = folder / "cloud_functions.zip"
        entries = write_files({one.module: one for one in strategies}, folder / "strategies")
        package.build_functions(archive, extra=entries)
        results = _import(folder, archive, [one.module for one in strategies])
    return [
        msgspec.structs.replace(one, classes=_classes(one.module, results.get(one.module)))
        for one in strategies
    ]


def _check_syntax(strategy: CustomStrategy) -> None:
    """Check that Lambda's Python can parse the files, whichever Python this is."""
    major, minor = map(int, package.LAMBDA_PYTHON.split("."))
    for name, content in strategy.files.items():
        if not name.endswith(".py"):
            continue
        try:
            ast.parse(content, name, feature_version=(major, minor))
        except (SyntaxError, ValueError, RecursionError) as error:
            message = f"--strategy: {name} is not Python {package.LAMBDA_PYTHON}: {error}"
            raise SettingsError(message) from error


def _import(folder: Path, archive: Path, modules: Sequence[str]) -> Mapping[str, Any]:
    plan, result = folder / "plan.json", folder / "result.json"
    plan.write_text(
        json.dumps({"archive": str(archive), "modules": modules, "dependencies": _folders()}),
        encoding="utf-8",
    )
    command = [sys.executable, "-I", "-S", "-B", str(strategy_import.__file__), str(plan), str(result)]
    try:
        done = subprocess.run(  # noqa: S603 - no shell
            command,
            cwd=folder,
            env={},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=IMPORT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        message = f"--strategy: importing {', '.join(modules)} did not end within {IMPORT_SECONDS:g} s"
        raise SettingsError(message) from error
    if not result.is_file():
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        message = (
            f"--strategy: importing {', '.join(modules)} ended the process, exit code {done.returncode}"
            + "".join(f" ({line[:200]})" for line in last)
        )
        raise SettingsError(message)
    found: Mapping[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def _folders() -> dict[str, str]:
    """Return the folder of each package of the averager that is installed here, by name."""
    specs = {name: importlib.util.find_spec(name) for name in THIRD_PARTY}
    found = {}
    for name, spec in specs.items():
        if spec and spec.origin:
            file = Path(spec.origin)
            found[name] = str(file.parents[1] if spec.submodule_search_locations else file.parent)
    return found


def _classes(module: str, result: Mapping[str, Any] | None) -> list[str]:
    found = result or {"error": "it was not imported"}
    if missing := found.get("missing"):
        message = (
            f"--strategy: {module} imports {missing!r}, which is not there: {_HAS}; modules of your own go"
            " into the folder of one package"
        )
        raise SettingsError(message)
    if error := found.get("error"):
        message = f"--strategy: {module} cannot be imported: {error}"
        raise SettingsError(message)
    classes: list[str] = found["classes"]
    if not classes:
        message = (
            f"--strategy: {module} defines no strategy: derive a class from"
            " fedgrass.federation.aggregation.Strategy (docs/aggregation.md)"
        )
        raise SettingsError(message)
    return classes

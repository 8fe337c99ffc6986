"""The child process of strategy_check.py: import strategies with the averager's packages only.

It is started as a script in isolated mode, with a plan (JSON) and a file for the result. Its module path has
the zip of the functions and the standard library; packages that the averager has as well are found in this
environment, any other one is not.
"""

import importlib
import json
import pkgutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType


class _Dependencies:
    """Finds the averager's packages in this environment, each in its own folder."""

    def __init__(self, folders: Mapping[str, str]) -> None:
        self._folders = folders

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or name not in self._folders:
            return None
        return PathFinder.find_spec(name, [self._folders[name]], target)


def main(plan_file: str, result_file: str) -> None:
    """Import each module of the plan; write {"classes": [...]} or {"error": text} for each."""
    plan = json.loads(Path(plan_file).read_text(encoding="utf-8"))
    sys.path.insert(0, plan["archive"])
    sys.meta_path.append(_Dependencies(plan["dependencies"]))
    results = {module: _examine(module) for module in plan["modules"]}
    Path(result_file).write_text(json.dumps(results), encoding="utf-8")


def _examine(module: str) -> dict[str, object]:
    try:
        return {"classes": [_name(kind) for kind in _strategies(module)]}
    except ModuleNotFoundError as error:
        return {"error": str(error), "missing": error.name}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - also SystemExit: the module's fault, whatever it raises
        return {"error": f"{type(error).__name__}: {error}"}


def _strategies(module: str) -> Iterator[type]:
    """Yield the strategies that a module, or a package and its modules, define.

    Raises:
        TypeError: one of them has declarations that the averager would refuse.
    """
    # Of the zip, not of this environment.
    from cloud_functions.aggregation.guarded_strategy import problems_in  # noqa: PLC0415
    from fedgrass.federation.aggregation import Strategy  # noqa: PLC0415

    for loaded in _modules(module):
        for name, found in sorted(vars(loaded).items()):
            is_own = isinstance(found, type) and found.__module__ == loaded.__name__ and name[0] != "_"
            if not is_own or not issubclass(found, Strategy):
                continue
            for problem in problems_in(found):
                message = f"{_name(found)} cannot be used: {problem}"
                raise TypeError(message)
            yield found


def _modules(module: str) -> Iterator[ModuleType]:
    root = importlib.import_module(module)
    yield root
    for found in pkgutil.walk_packages(getattr(root, "__path__", []), f"{module}."):
        yield importlib.import_module(found.name)


def _name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


if __name__ == "__main__":
    main(*sys.argv[1:])

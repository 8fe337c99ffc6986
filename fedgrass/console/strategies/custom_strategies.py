"""Custom strategies as files: read them from the operator's disk, pack them into the functions' zip.

A strategy is a module ``my_module.py`` or a package ``my_package/``. It is packed at the top of the zip, next
to ``cloud_functions``, so that a run names it by ``my_module:Class``. ``custom_strategies.json`` in the zip
lists them: the zip that is deployed is the only record of which strategies a stack has.
"""

import json
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from msgspec import Struct

from fedgrass.federation.conversion import nearest
from fedgrass.federation.errors import SettingsError

LIST_FILE = "custom_strategies.json"
# Packages that a strategy may import in addition to the standard library and fedgrass.federation: those of
# the zip (package.py) and of Lambda's runtime, with what they import themselves.
THIRD_PARTY = (
    "aws_lambda_powertools",
    "boto3",
    "botocore",
    "dateutil",
    "jmespath",
    "msgspec",
    "numpy",
    "s3transfer",
    "safetensors",
    "six",
    "typing_extensions",
    "urllib3",
    "xxhash",
)
# A module of one of these names would hide it from the functions, or be hidden by it.
_OTHER_MODULES = (
    "awslambdaric",
    "bootstrap",
    "cloud_functions",
    "components",
    "fedgrass",
    "package",
    "tests",
)
_RESERVED = frozenset({*THIRD_PARTY, *_OTHER_MODULES, *sys.stdlib_module_names})
_LEFT_OUT = {"__pycache__", "tests"}
_COMPILED = {".so", ".pyd", ".dll", ".dylib"}
_MOST_FILES = 200
_LARGEST = 5_000_000  # bytes of one strategy


class CustomStrategy(Struct, frozen=True):
    """A module or package of the operator, which defines aggregation strategies."""

    module: str  # its import name
    files: Mapping[str, bytes]  # contents by name in the zip, such as ``my_package/__init__.py``
    classes: Sequence[str] = ()  # as runs name them, ``module:Class``


def read_strategy(path: Path) -> CustomStrategy:
    """Return the strategy in a ``.py`` file, or in the folder of a package.

    Raises:
        SettingsError: the path is neither, its name cannot be imported or is taken, or it is too large.
    """
    path = path.absolute()
    try:
        path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        message = f"--strategy {path} cannot be read: {reason}"
        raise SettingsError(message) from error
    if not path.is_dir() and (path.suffix != ".py" or not path.is_file()):
        message = f"--strategy {path} is not a Python file: give a .py file, or the folder of a package"
        raise SettingsError(message)
    if path.name == "__init__.py":
        message = f"--strategy {path} is a part of a package: give its folder, {path.parent}"
        raise SettingsError(message)
    if path.is_dir() and not (path / "__init__.py").is_file():
        message = f"--strategy {path} is a folder without __init__.py, which a package needs, if only empty"
        raise SettingsError(message)
    module = path.stem if path.is_file() else path.name
    _check_name(path, module)
    found = [(path.name, path)] if path.is_file() else list(_files(path))
    if len(found) > _MOST_FILES:
        message = f"--strategy {path} has {len(found):,} files, and {_MOST_FILES} are allowed"
        raise SettingsError(message)
    return CustomStrategy(module, _contents(path, found))


def chosen_strategies(
    deployed: Mapping[str, CustomStrategy], given: Sequence[CustomStrategy], without: Sequence[str]
) -> dict[str, CustomStrategy]:
    """Return the strategies to deploy, by module: those deployed now, replaced by given ones, without some.

    Args:
        deployed: strategies in the stack's functions, by module.
        given: strategies of ``--strategy``.
        without: modules of ``--without-strategy``.

    Raises:
        SettingsError: a module is given twice, both given and removed, or to be removed but not deployed.
    """
    by_name: dict[str, CustomStrategy] = {}
    for one in given:
        if one.module in by_name:
            message = f"--strategy names two modules {one.module!r}: rename one"
            raise SettingsError(message)
        by_name[one.module] = one
    for name in without:
        if name in by_name:
            message = f"{name!r} is in both --strategy and --without-strategy: omit one of them"
            raise SettingsError(message)
        if name not in deployed:
            known = nearest(name, sorted(deployed)) if deployed else "no custom strategy is deployed"
            message = f"--without-strategy {name!r} is not deployed: {known}"
            raise SettingsError(message)
    return {name: one for name, one in sorted({**deployed, **by_name}.items()) if name not in without}


def write_files(strategies: Mapping[str, CustomStrategy], folder: Path) -> list[tuple[str, Path]]:
    """Write the files of strategies and their list to a folder; return (name in the zip, file) entries."""
    if not strategies:
        return []
    listed = {name: sorted(one.classes) for name, one in sorted(strategies.items())}
    contents = {LIST_FILE: json.dumps(listed, indent=2).encode() + b"\n"}
    for one in strategies.values():
        contents.update(one.files)
    for name, content in contents.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return [(name, folder / name) for name in sorted(contents)]


def packed_strategies(archive: zipfile.ZipFile) -> dict[str, CustomStrategy]:
    """Return the strategies in the zip of the functions, by module."""
    names = archive.namelist()
    if LIST_FILE not in names:
        return {}
    listed: Mapping[str, Sequence[str]] = json.loads(archive.read(LIST_FILE))
    return {
        module: CustomStrategy(
            module,
            {
                name: archive.read(name)
                for name in names
                if name == f"{module}.py" or PurePosixPath(name).parts[0] == module
            },
            classes,
        )
        for module, classes in listed.items()
    }


def _check_name(path: Path, module: str) -> None:
    if not (module.isidentifier() and module.isascii()) or module.startswith("__"):
        message = (
            f"--strategy {path}: {module!r} cannot be the name of a module, since runs name a strategy by"
            " module:Class: use letters, digits and '_' only, and begin with a letter"
        )
        raise SettingsError(message)
    if module in _RESERVED:
        message = (
            f"--strategy {path}: the averager already has a module {module!r}, of Python or of a package that"
            f" it uses: rename it, for example to {module}_strategy"
        )
        raise SettingsError(message)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name in the zip, file) of a package, without caches, tests and hidden files."""
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        if file.is_file() and not hidden and not _LEFT_OUT & set(parts):
            yield PurePosixPath(folder.name, *parts).as_posix(), file


def _contents(path: Path, found: Sequence[tuple[str, Path]]) -> dict[str, bytes]:
    size, contents = 0, dict[str, bytes]()
    for name, file in found:
        if file.suffix in _COMPILED:
            message = f"--strategy {path}: {file} is compiled for this machine; give Python files only"
            raise SettingsError(message)
        try:
            size += file.stat().st_size
            if size > _LARGEST:
                message = f"--strategy {path} is larger than the limit of {_LARGEST:,} bytes"
                raise SettingsError(message)
            contents[name] = file.read_bytes()
        except OSError as error:
            message = f"--strategy {path}: {file} cannot be read: {error.strerror}"
            raise SettingsError(message) from error
    return contents

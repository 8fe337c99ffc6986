"""Select the files of a task: its module, what that imports from the same folder, and included data.

Hidden files and caches are never taken. A file that may hold a secret, and a symbolic link that leads out of
the folder, are refused by name.
"""

import ast
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

from fedgrass.console.options import read_text
from fedgrass.federation.errors import SettingsError

_CACHES = frozenset({"__pycache__", "node_modules", "venv", "site-packages"})
_COMPILED = frozenset({".pyc", ".pyo"})
_SECRETS = re.compile(
    r".*\.(pem|key|p12|pfx|jks|keystore|kdbx|gpg|ppk)|id_(rsa|dsa|ecdsa|ed25519)(\.pub)?"
    r"|credentials(\..*)?|secrets?(\..*)?|.*\.secrets?|netrc",
    re.IGNORECASE,
)
MOST_BYTES = 2_000_000_000  # Greengrass's limit of a component's artifacts together


def task_files(folder: Path, module: str, include: Sequence[str] = ()) -> dict[str, Path]:
    """Return the files of a task by their name below ``folder``, sorted.

    Args:
        folder: where the module is.
        module: dotted name of the module that has the task's class.
        include: patterns of further files below ``folder``, such as ``weights/*.npy``; a folder stands for
            everything below it.

    Raises:
        SettingsError: the module is not there, a pattern matches nothing or leaves the folder, or a file may
            not be taken.
    """
    if not folder.is_dir():
        message = f"--path {folder} is not a folder: give the folder of the task's module"
        raise SettingsError(message)
    found: dict[str, Path] = {}
    for path in [*_sources(folder, module), *_included(folder, include)]:
        found[_checked(folder, path)] = path
    check_size(found.values())
    return dict(sorted(found.items()))


def check_size(files: Collection[Path]) -> None:
    """Check the size of a component's files together. Raises SettingsError if Greengrass would refuse it."""
    size = sum(path.stat().st_size for path in files)
    if size > MOST_BYTES:
        largest = max(files, key=lambda path: path.stat().st_size)
        message = (
            f"the task's files have {size:,} bytes, the largest {largest}, and Greengrass takes"
            f" {MOST_BYTES:,} per component: leave data to the device and name its folder in an option"
        )
        raise SettingsError(message)


def check_no_secret(path: Path, way_out: str, name: str = "") -> None:
    """Check a file by its own name, or another. Raises SettingsError if it may hold a key or a password."""
    if _SECRETS.fullmatch(name or path.name):
        message = (
            f"{path} may be a key or a password by its name, and every device would get it: {way_out}, or"
            " rename it if it is none"
        )
        raise SettingsError(message)


def _sources(folder: Path, module: str) -> Iterator[Path]:
    """Yield the Python files of a module, and of all modules of the folder that they import."""
    top = module.partition(".")[0]
    if not list(_files_of_module(folder, top)):
        message = f"there is neither {top}.py nor a package {top} in {folder.absolute()}: give its --path"
        raise SettingsError(message)
    waiting, seen = [top], {top}
    while waiting:
        for file in _files_of_module(folder, waiting.pop()):
            yield file
            new = set(_imports(file)) - seen
            seen |= new
            waiting += new


def _files_of_module(folder: Path, top: str) -> Iterator[Path]:
    if (package := folder / top).is_dir():
        # A folder of the same name that has no Python file is data, not a package.
        yield from (path for path in sorted(package.rglob("*.py")) if _is_taken(folder, path))
    elif (file := folder / f"{top}.py").is_file():
        yield file


def _imports(file: Path) -> Iterator[str]:
    """Yield the first part of each module that a file imports, in functions too."""
    try:
        tree = ast.parse(read_text(file), str(file))
    except (SyntaxError, ValueError, RecursionError) as error:
        place = f"{file}:{error.lineno}" if isinstance(error, SyntaxError) else str(file)
        message = f"{place}: {type(error).__name__}: {getattr(error, 'msg', error)}"
        raise SettingsError(message) from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


def _included(folder: Path, include: Sequence[str]) -> Iterator[Path]:
    for pattern in include:
        if not pattern or PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts:
            message = (
                f"--include {pattern!r} is not below the task's folder {folder}: give a pattern relative to"
                " it, or copy the file there"
            )
            raise SettingsError(message)
        matches = sorted(folder.glob(pattern))
        files = [
            file
            for match in matches
            for file in (sorted(match.rglob("*")) if match.is_dir() else [match])
            if (file.is_file() or file.is_symlink()) and _is_taken(folder, file)
        ]
        if not files:
            message = (
                f"--include {pattern!r} matches no file in {folder.absolute()} (hidden ones are left out)"
            )
            raise SettingsError(message)
        yield from (file for file in files if not file.is_dir())


def _is_taken(folder: Path, path: Path) -> bool:
    parts = path.relative_to(folder).parts
    hidden = any(part.startswith(".") for part in parts)
    return not hidden and not _CACHES & set(parts) and path.suffix not in _COMPILED


def _checked(folder: Path, path: Path) -> str:
    """Return the name of a file in the artifact.

    Raises:
        SettingsError: the file looks like a secret, or a symbolic link leads out of the folder or nowhere.
    """
    name = path.relative_to(folder).as_posix()
    target = path.resolve()
    if not target.is_relative_to(folder.resolve()):
        message = f"{path} is a symbolic link to {target}, outside the task's folder: copy the file instead"
        raise SettingsError(message)
    if not target.is_file():
        message = f"{path} is a symbolic link to {target}, which is not a file: remove or mend it"
        raise SettingsError(message)
    for one in {path.name, target.name}:
        check_no_secret(path, "leave it out of --include", one)
    return name

"""Select the files of a Flower app: those that ``flwr build`` puts into its bundle, by the same patterns.

The patterns are those of .gitignore. Data files are not among them, as in Flower: an app's data are on the
devices. Symbolic links are left out, as in Flower; a file that may hold a secret is refused by name.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pathspec import PathSpec
from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from fedgrass.console.flower.flower_project import PROJECT_FILE, FlowerProject
from fedgrass.console.options import read_text
from fedgrass.console.tasks.task_files import check_no_secret, check_size
from fedgrass.federation.conversion import shown
from fedgrass.federation.errors import SettingsError

# flwr.common.constant, FAB_INCLUDE_PATTERNS and FAB_EXCLUDE_PATTERNS, which a test compares.
BUILT_IN_INCLUDE = (
    "**/*.py",
    "**/*.toml",
    "**/*.md",
    "**/*.yaml",
    "**/*.yml",
    "**/*.json",
    "**/*.jsonl",
    "/LICENSE",
)
BUILT_IN_EXCLUDE = (
    ".flwr/**",
    "**/__pycache__/**",
    PROJECT_FILE,
    "**/*_test.py",
    "**/test_*.py",
    "build/**",
    "eggs/**",
    ".eggs/**",
    "lib/**",
    "lib64/**",
    "parts/**",
    "*.egg",
    ".venv/**",
    "env/**",
    "venv/**",
    "ENV/**",
    "env.bak/**",
    "venv.bak/**",
)
_GITIGNORE = ".gitignore"
_NEVER_ENTERED = frozenset({".git", ".venv", ".flwr", "__pycache__"})  # excluded above, and often large


def app_files(project: FlowerProject) -> dict[str, Path]:
    """Return the files of an app by their name below its folder, sorted; its pyproject.toml is the first.

    Raises:
        SettingsError: a pattern of the app is invalid or matches no file or one of a type that Flower never
            takes, a file may be a secret, or the files are too large.
    """
    folder = project.folder.resolve()
    all_files = {path.relative_to(folder).as_posix(): path for path in _walk(folder)}
    ignored = _patterns(_gitignored(folder), f"{project.folder / _GITIGNORE}")
    of_type = _patterns(BUILT_IN_INCLUDE)
    names = [name for name in all_files if of_type.match_file(name) and not ignored.match_file(name)]
    included = _own("fab-include", project.include, names, everything=True)
    excluded = _own("fab-exclude", project.exclude, names, everything=False)
    never = _patterns(BUILT_IN_EXCLUDE)
    taken = [name for name in names if name in included - excluded and not never.match_file(name)]
    for name in taken:
        check_no_secret(all_files[name], "add it to .gitignore or to fab-exclude")
    found = {PROJECT_FILE: folder / PROJECT_FILE, **{name: all_files[name] for name in sorted(taken)}}
    check_size(found.values())
    return found


def _own(key: str, patterns: Sequence[str] | None, names: Sequence[str], *, everything: bool) -> set[str]:
    """Return the names that an app's own patterns match; without any, all names or none."""
    if patterns is None:
        return set(names) if everything else set()
    for pattern in patterns:
        if not any(True for _ in _patterns([pattern], key).match_files(names)):
            message = (
                f"{key} has the pattern {shown(pattern)}, which matches no file of the types that Flower"
                f" takes ({', '.join(BUILT_IN_INCLUDE)}): correct or remove it; data belong on the devices"
            )
            raise SettingsError(message)
    return set(_patterns(patterns, key).match_files(names))


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder; symbolic links are neither followed nor taken."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _NEVER_ENTERED)
        yield from (path for path in map(partial(Path, place), sorted(files)) if not path.is_symlink())


def _gitignored(folder: Path) -> list[str]:
    file = folder / _GITIGNORE
    lines = read_text(file).splitlines() if file.is_file() else []
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def _patterns(patterns: Iterable[str], named: str = "") -> "PathSpec[Any]":
    try:
        return PathSpec.from_lines(GitIgnoreSpecPattern, patterns)
    except ValueError as error:
        message = f"{named} has a pattern that cannot be used: {error}"
        raise SettingsError(message) from error

"""Imports the modules of users' tasks under private names, separately for each folder.

Two tasks may have files of the same name in different folders, a file may have the name of a library, and a
file may be replaced while the process runs. Therefore no file of a task is imported under its plain name:
``/opt/welds/model.py`` becomes the module ``task_folder_3.model``. An import statement in a file of a folder
finds the folder's other files first, except where the standard library has a module of that name. All other
modules, including those of other tasks, never find them.

Once a loaded file has changed, its folder is loaded again under another private name.
"""

import builtins
import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

_Signature = tuple[int, int, int, int]  # device, inode, size, time of the last change in ns
_folders: dict[str, "TaskFolder"] = {}  # by path: the current ones
_by_prefix: dict[str, "TaskFolder"] = {}  # including replaced ones, whose tasks may still be in use
_aliases: set[str] = set()  # plain names under which private modules have been imported too


def folder_at(path: str) -> "TaskFolder":
    """Return the task folder at ``path``; a new one if one of its loaded files has changed."""
    importlib.invalidate_caches()  # the finders' caches do not see a file written within the last second
    known = _folders.get(path)
    if known is None or not known.is_current():
        _install()
        _forget_aliases()
        known = TaskFolder(path, f"task_folder_{len(_by_prefix) + 1}")
        _folders[path] = _by_prefix[known.prefix] = known
    return known


def folder_of(module: str) -> "TaskFolder | None":
    """Return the task folder that a module was imported from; None if it is from elsewhere.

    Args:
        module: its ``__name__``.
    """
    return _by_prefix.get(module.partition(".")[0])


class TaskFolder:
    """A folder of task files and the modules that have been loaded from it.

    Args:
        path: of the folder.
        prefix: the private package name of its modules.
    """

    def __init__(self, path: str, prefix: str) -> None:
        self.path = path
        self.prefix = prefix
        self._files: dict[str, _Signature | None] = {}
        self._packages: set[str] = set()  # packages of a task: they take precedence over the standard library
        self.builtins = {**vars(builtins), "__import__": self._import}
        package = ModuleType(prefix)
        package.__path__ = [path]
        sys.modules[prefix] = package

    def has(self, module: str) -> bool:
        """Return whether the folder contains the top-level file or package of a dotted module name."""
        return self._spec(module.partition(".")[0]) is not None

    def load(self, module: str) -> ModuleType:
        """Import a module of the folder by its dotted name; exceptions of its code are not caught."""
        self._packages.add(module.partition(".")[0])
        return importlib.import_module(f"{self.prefix}.{module}")

    def is_current(self) -> bool:
        """Return whether all loaded files are unchanged."""
        return all(_signature(path) == signature for path, signature in self._files.items())

    def note(self, path: str) -> None:
        """Record the signature of a file before it is read."""
        self._files[path] = _signature(path)

    def plain(self, text: str) -> str:
        """Return a text with private module names replaced by plain ones."""
        return text.replace(f"{self.prefix}.", "")

    def _spec(self, top: str) -> ModuleSpec | None:
        return PathFinder.find_spec(f"{self.prefix}.{top}", [self.path])

    def _is_own(self, top: str, importing: Mapping[str, object]) -> bool:
        """Return whether an import in one of the folder's files refers to a file of the folder.

        Args:
            top: the first part of the imported name.
            importing: the globals of the importing module.
        """
        spec = self._spec(top)
        if spec is None:
            return False
        if importing.get("__name__") == f"{self.prefix}.{top}" and "__path__" not in importing:
            return False  # a statistics.py that imports statistics refers to the library
        is_package = spec.submodule_search_locations is not None
        if top in sys.stdlib_module_names and not (is_package and top in self._packages):
            return False
        # A folder without __init__.py (a namespace package) yields to a library of its name, as usual.
        return spec.loader is not None or top in self._packages or not _is_library(top)

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002 - the signature of __import__
        locals: Mapping[str, object] | None = None,  # noqa: A002 - the signature of __import__
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Replace ``builtins.__import__`` for import statements in the folder's files."""
        top = name.partition(".")[0]
        if level or not self._is_own(top, globals or {}):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        found = importlib.import_module(f"{self.prefix}.{name}")
        if fromlist:
            return builtins.__import__(f"{self.prefix}.{name}", globals, locals, fromlist, 0)
        return found if top == name else sys.modules[f"{self.prefix}.{top}"]


class _SourceLoader(SourceFileLoader):
    """Loads a file of a task. Always compiles it: cached bytecode may be that of an older file."""

    def __init__(self, name: str, path: str, folder: TaskFolder) -> None:
        super().__init__(name, path)
        self._folder = folder

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        self._folder.note(path)
        return self.source_to_code(self.get_data(path), path)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self._folder.builtins
        super().exec_module(module)


class _PrivateModules(MetaPathFinder):
    """Finds modules by their private names, and submodules of aliased packages."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top = fullname.partition(".")[0]
        if top in _aliases:
            return _alias(fullname)
        folder = _by_prefix.get(top)
        if folder is None:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _SourceLoader(fullname, spec.loader.path, folder)
        return spec


class _PlainNames(MetaPathFinder):
    """Finds a task's module by its plain name if no other finder does, as pickle and import_module require.

    Only for code called from a task's file, and only if exactly one folder has a module of that name, so that
    a module of another task is never imported by mistake.
    """

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002 - the interface of finders
    ) -> ModuleSpec | None:
        return _alias(fullname) if path is None and _is_called_by_a_task() else None


class _AliasLoader(Loader):
    """Makes a private module available under its plain name."""

    def __init__(self, private: str) -> None:
        self._private = private

    def create_module(self, spec: ModuleSpec) -> None:  # noqa: ARG002 - the interface of loaders
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        _aliases.add(name.partition(".")[0])
        sys.modules[name] = importlib.import_module(self._private)


def _is_called_by_a_task() -> bool:
    frame = sys._getframe()  # noqa: SLF001 - the only way to find out which module is importing
    while frame.f_back is not None:
        frame = frame.f_back
        if str(frame.f_globals.get("__name__")).partition(".")[0] in _by_prefix:
            return True
    return False


def _alias(fullname: str) -> ModuleSpec | None:
    folders = [folder for folder in _folders.values() if folder.has(fullname)]
    if not folders:
        return None
    if len(folders) > 1:
        message = (
            f"{fullname!r} is a module of several tasks ({', '.join(sorted(f.path for f in folders))}):"
            " import it with an import statement in the task's own file, or rename one of the files"
        )
        raise ImportError(message, name=fullname)
    return ModuleSpec(fullname, _AliasLoader(f"{folders[0].prefix}.{fullname}"))


def _forget_aliases() -> None:
    """Remove all aliases, so that plain names are resolved again with the new folder."""
    for name in [name for name in sys.modules if name.partition(".")[0] in _aliases]:
        del sys.modules[name]
    _aliases.clear()


def _is_library(top: str) -> bool:
    is_loaded = top in sys.modules and top not in _aliases
    return is_loaded or PathFinder.find_spec(top) is not None


def _install() -> None:
    if not any(isinstance(finder, _PrivateModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PrivateModules())
        sys.meta_path.append(_PlainNames())


def _signature(path: str) -> _Signature | None:
    """Return a signature by which a replaced or changed file is detected; None if the file is missing."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

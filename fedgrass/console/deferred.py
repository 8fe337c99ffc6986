"""Import what carries out a command only when that command runs.

``fedgrass --help`` must build the parsers of all commands. boto3, numpy and rich would make it take a
second, so the command modules name their actions as ``module:function`` without importing them.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any


class Deferred:
    """A function of another module, which is imported at the first call.

    Args:
        target: ``module:function``.
    """

    def __init__(self, target: str) -> None:
        self.target = target

    def load(self) -> Callable[..., Any]:
        """Import the module and return the function."""
        module, _, name = self.target.partition(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        return function

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Import the module and call the function."""
        return self.load()(*arguments, **options)


def deferred(target: str) -> Deferred:
    """Return a function that imports ``module:function`` when it is called, and calls it."""
    return Deferred(target)

"""A registry of strategies: built-in ones by name, custom ones by ``module:Class``, with validated options.

The selection strategies and the aggregation strategies each have one.
"""

import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

import msgspec
from msgspec import Struct

from fedgrass.federation.conversion import convert, nearest
from fedgrass.federation.errors import SettingsError

# A custom strategy. Importing its module is left to the cloud functions, where it is deployed.
CUSTOM_STRATEGY = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*")  # module:Class

AnyStrategy = TypeVar("AnyStrategy", bound=Struct)


class StrategyRegistry(Mapping[str, AnyStrategy]):
    """The built-in strategies of one role by name, each with its default options.

    Args:
        role: "selection" or "aggregation": the run's setting, and the prefix of ``<role>_options``.
        kinds: The class of each built-in strategy, with its options as fields.
    """

    def __init__(self, role: str, kinds: Mapping[str, type[AnyStrategy]]) -> None:
        self._role = role
        # Converted here, not at their first use: msgspec 0.22 crashes the process if two threads are the
        # first to use a type.
        self._defaults = {name: msgspec.convert({}, kind) for name, kind in kinds.items()}

    def __getitem__(self, name: str) -> AnyStrategy:
        """Return a built-in strategy with its default options."""
        return self._defaults[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the built-in strategies."""
        return iter(self._defaults)

    def __len__(self) -> int:
        """Return the number of built-in strategies."""
        return len(self._defaults)

    def find(self, name: str, options: Mapping[str, object]) -> AnyStrategy:
        """Return the built-in strategy ``name`` with ``options``, a decoded JSON object.

        Raises:
            SettingsError: The strategy does not exist, or an option is unknown or invalid.
        """
        default = self._defaults.get(name)
        if default is None:
            message = f"the run's {self._role} is {name!r}: {nearest(name, self)}"
            raise SettingsError(message)
        return self.configure(name, type(default), options)

    def configure(self, name: str, kind: type[AnyStrategy], options: Mapping[str, object]) -> AnyStrategy:
        """Return a strategy of the class ``kind`` with ``options``.

        Raises:
            SettingsError: An option is unknown or invalid; the message names it, and lists all options.
        """
        try:
            return convert(
                options,
                kind,
                whole=f"the run's {self._role}_options with the {self._role} {name!r}",
                part=f"the run's {self._role}_options.",
            )
        except SettingsError as error:
            known = ", ".join(map(_with_default, msgspec.structs.fields(kind)))
            message = f"{error} (the {self._role} {name!r} has {known or 'no options'})"
            raise SettingsError(message) from error


def _with_default(field: msgspec.structs.FieldInfo) -> str:
    return field.name if field.required else f"{field.name} = {field.default}"

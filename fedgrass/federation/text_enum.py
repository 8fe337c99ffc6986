"""Enumerations of texts, as enum.StrEnum has them from Python 3.11 on: devices may have Python 3.10."""

from enum import Enum


class TextEnum(str, Enum):
    """An enumeration whose members are texts, and are formatted as such."""

    def __str__(self) -> str:
        """Return the member's text."""
        return str(self.value)

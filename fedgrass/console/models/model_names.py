"""The name of a model: ``RUN/ROUND``, such as ``digits-1/5``; 0 is the initial model."""

import re

from msgspec import Struct

from fedgrass.federation.conversion import shown
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import checked_name

_NUMBER = re.compile(r"[0-9]{1,6}", re.ASCII)


class ModelName(Struct, frozen=True, order=True):
    """Run and round of a model."""

    run: str
    round: int

    def __str__(self) -> str:
        """Return ``RUN/ROUND``."""
        return f"{self.run}/{self.round}"


def parse_model_name(given: str) -> ModelName:
    """Return the run and the round that ``RUN/ROUND`` names. Raises SettingsError for anything else."""
    run, slash, number = given.rpartition("/")
    if not slash or not _NUMBER.fullmatch(number):
        message = f"{shown(given)} names no model: it takes RUN/ROUND, such as digits-1/5"
        raise SettingsError(message)
    return ModelName(checked_name("run", run), int(number))


def is_model_name(given: str) -> bool:
    """Return whether a text is meant as RUN/ROUND rather than as an alias."""
    return "/" in given

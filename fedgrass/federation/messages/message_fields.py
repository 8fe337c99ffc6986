"""The types of the fields of messages and settings, and functions that shorten text to fit them.

``TextEnum`` replaces enum.StrEnum, which needs Python 3.11: devices may run Python 3.10.
"""

from enum import Enum
from typing import Annotated

import msgspec
from msgspec import Meta

from fedgrass.federation import names


class TextEnum(str, Enum):
    """An enumeration whose members are strings and are formatted as such."""

    def __str__(self) -> str:
        """Return the member's text."""
        return str(self.value)


LARGEST_NUMBER = 2**53  # larger integers are not portable between JSON readers

Positive = Annotated[int, Meta(ge=1, le=LARGEST_NUMBER)]
Count = Annotated[int, Meta(ge=0, le=LARGEST_NUMBER)]
Seconds = Annotated[float, Meta(ge=0, le=LARGEST_NUMBER)]
Milliseconds = Annotated[int, Meta(ge=0, le=LARGEST_NUMBER)]  # since the epoch, by the cloud's clock
RunName = Annotated[str, Meta(pattern=names.RUN_NAME)]
TaskName = Annotated[str, Meta(pattern=names.TASK_NAME, description=names.RULES["task"][1])]
Reason = Annotated[str, Meta(max_length=512)]
# Metric names take one byte of JSON per character, so that the largest completion stays under the limit.
LONGEST_METRIC_NAME = 64
MOST_METRICS = 24  # per message
LONGEST_UNSENT = 200  # characters
Unsent = Annotated[str, Meta(max_length=LONGEST_UNSENT)]
MetricName = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9_./:@ -]{{1,{LONGEST_METRIC_NAME}}}\Z")]
Metrics = Annotated[dict[MetricName, float], Meta(max_length=MOST_METRICS)]
# No quotation marks, backslashes or control characters, so that a run's `where` can express every text.
AttributeName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,31}\Z",
        description="1 to 32 letters, digits or '_', the first no digit",
    ),
]
AttributeText = Annotated[
    str,
    Meta(
        pattern=r"""^[^"'\\\x00-\x1f\x7f]{0,64}\Z""",
        description="a text of at most 64 characters (no quotation mark, backslash or line break)",
    ),
]
Attributes = Annotated[dict[AttributeName, AttributeText | float | bool], Meta(max_length=16)]
MOST_OPTIONS = 24
Option = bool | int | float | str
Options = Annotated[dict[str, Option], Meta(max_length=MOST_OPTIONS)]
StrategyOptions = dict[str, Option]  # of a selection or aggregation strategy, which bounds them itself
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}\\Z")]
StateName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}\Z")]
MOST_CARRIED = 1  # kinds of auxiliary state per update: more would not fit an announcement


def shorten(text: str, length: int = 512) -> str:
    """Return ``text`` cut to ``length`` characters, so that a reason always fits its message."""
    return text if len(text) <= length else text[: length - 1] + "…"


def shorten_to_bytes(text: str, most: int) -> str:
    """Return ``text`` cut to at most ``most`` bytes of JSON; a control character takes six."""
    while len(msgspec.json.encode(text)) > most:
        text = shorten(text, len(text) * 3 // 4)
    return text

"""The types of message fields: names, counts, metrics and texts, each with its limits."""

import re
from enum import Enum
from typing import Annotated

import msgspec
from msgspec import Meta

from fedgrass.federation.errors import SettingsError

# Thing names follow AWS IoT's own rule; the others are stricter, because they become parts of topics, object
# keys and stack names.
THING_NAME = r"^[A-Za-z0-9:_-]{1,128}\Z"
FLEET_NAME = r"^[a-z][a-z0-9-]{0,31}\Z"
_RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9-]{0,63}\Z"
_ALIAS_NAME = r"^[a-z][a-z0-9-]{0,31}\Z"
_TASK_NAME = r"^(flower:)?[a-z][a-z0-9_-]{0,31}\Z"

RULES = {
    "thing": (THING_NAME, "1 to 128 letters, digits, ':', '_' or '-'"),
    "fleet": (FLEET_NAME, "1 to 32 lower-case letters, digits or '-', the first a letter"),
    "run": (_RUN_NAME, "1 to 64 letters, digits or '-', not starting with '-'"),
    "task": (
        _TASK_NAME,
        "1 to 32 lower-case letters, digits, '_' or '-', the first a letter (after 'flower:': a Flower app)",
    ),
    "alias": (_ALIAS_NAME, "1 to 32 lower-case letters, digits or '-', the first a letter"),
}


def checked_name(kind: str, name: str) -> str:
    """Return ``name`` if it is a valid name of a ``kind`` (thing, fleet, run, task or alias).

    Raises:
        SettingsError: The name is invalid; the message lists the allowed characters.
    """
    pattern, rule = RULES[kind]
    if not re.match(pattern, name):
        article = "an" if kind == "alias" else "a"
        message = f"{name!r} cannot name {article} {kind}: it takes {rule}"
        raise SettingsError(message)
    return name


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
RunName = Annotated[str, Meta(pattern=_RUN_NAME)]
TaskName = Annotated[str, Meta(pattern=_TASK_NAME, description=RULES["task"][1])]
AliasName = Annotated[str, Meta(pattern=_ALIAS_NAME, description=RULES["alias"][1])]
LONGEST_REASON = 512  # characters
Reason = Annotated[str, Meta(max_length=LONGEST_REASON)]
LONGEST_CALLER = 256  # characters of who requests an action, such as an ARN
LONGEST_CODE = 100  # characters
CodeVersions = Annotated[str, Meta(max_length=LONGEST_CODE)]  # such as "trainer 0.4.0, cracks 1.2.0"
# Metric names take one byte of JSON per character, so that the largest completion stays under the limit.
LONGEST_METRIC_NAME = 64
MOST_METRICS = 24  # per message
LONGEST_UNSENT = 200  # characters
Unsent = Annotated[str, Meta(max_length=LONGEST_UNSENT)]
MetricName = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9_./:@ -]{{1,{LONGEST_METRIC_NAME}}}\Z")]
Metrics = Annotated[dict[MetricName, float], Meta(max_length=MOST_METRICS)]
LONGEST_ANSWER = 2732  # characters: 2,048 bytes in base64
Answer = Annotated[str, Meta(max_length=LONGEST_ANSWER, pattern=r"^[A-Za-z0-9+/=]*\Z")]
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
Sha256 = Annotated[
    str, Meta(pattern="^[0-9a-f]{64}\\Z", description="a SHA-256 as 64 hexadecimal digits, in lower case")
]
RequestId = Annotated[
    str, Meta(pattern="^[0-9a-f]{32}\\Z", description="an id of 32 hexadecimal digits, in lower case")
]
StateName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}\Z")]
# Patterns of array names: see weights/array_sharing.py.
ArrayPatterns = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=128, description="a pattern of 1 to 128 characters")]],
    Meta(max_length=16, description="a list of at most 16 patterns of array names, such as 'head.*'"),
]
MOST_CARRIED = 1  # kinds of auxiliary state per update: more would not fit an announcement


def shorten(text: str, length: int = LONGEST_REASON) -> str:
    """Return ``text`` cut to ``length`` characters, so that a reason always fits its message."""
    return text if len(text) <= length else text[: length - 1] + "…"


def shorten_to_bytes(text: str, most: int) -> str:
    """Return ``text`` cut to at most ``most`` bytes of JSON; a control character takes six."""
    while len(msgspec.json.encode(text)) > most:
        text = shorten(text, len(text) * 3 // 4)
    return text

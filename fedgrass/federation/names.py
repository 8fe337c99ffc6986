"""Names given by operators: fleets, things, runs and tasks, and the characters each may contain."""

import re

from fedgrass.federation.errors import SettingsError

# Thing names follow AWS IoT's own rule; the others are stricter, because they become parts of topics, object
# keys and stack names.
THING_NAME = r"^[A-Za-z0-9:_-]{1,128}\Z"
FLEET_NAME = r"^[a-z][a-z0-9-]{0,31}\Z"
RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9-]{0,63}\Z"
TASK_NAME = r"^[a-z][a-z0-9_-]{0,31}\Z"

RULES = {
    "thing": (THING_NAME, "1 to 128 letters, digits, ':', '_' or '-'"),
    "fleet": (FLEET_NAME, "1 to 32 lower-case letters, digits or '-', the first a letter"),
    "run": (RUN_NAME, "1 to 64 letters, digits or '-', not starting with '-'"),
    "task": (TASK_NAME, "1 to 32 lower-case letters, digits, '_' or '-', the first a letter"),
}


def checked_name(kind: str, name: str) -> str:
    """Return ``name`` if it is a valid name of a ``kind`` (thing, fleet, run or task).

    Raises:
        SettingsError: The name is invalid; the message lists the allowed characters.
    """
    pattern, rule = RULES[kind]
    if not re.match(pattern, name):
        message = f"{name!r} cannot name a {kind}: it takes {rule}"
        raise SettingsError(message)
    return name

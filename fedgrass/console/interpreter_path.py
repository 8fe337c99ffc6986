"""The interpreter that a configuration names: checked before it reaches a device's install step."""

import re
from typing import Any

from fedgrass.federation.conversion import shown
from fedgrass.federation.errors import SettingsError

# As components/trainer/install.py takes it; a test holds the two together.
PYTHON_PATH = re.compile(r"/[A-Za-z0-9_./+@:,=~ -]{1,250}")


def check_python(component: str, configuration: Any) -> None:
    """Check the key ``python`` of a component's configuration; it may be empty, or left out.

    Raises:
        SettingsError: it is no absolute path, or has characters that no path of an interpreter needs.
    """
    value = configuration.get("python", "")
    if value == "" or (isinstance(value, str) and PYTHON_PATH.fullmatch(value)):
        return
    message = (
        f"the configuration of {component} has python {shown(value)}: it has to be the absolute path of an"
        " interpreter on the device, of letters, digits, spaces and _./+@:,=~- , or empty"
    )
    raise SettingsError(message)

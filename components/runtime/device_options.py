"""Options of tasks for this device only, merged over those in the component's own configuration.

They are the configuration of a separate component, com.fedgrass.DeviceOptions, which is deployed to the
thing. In the trainer's own configuration they would not last: a nucleus merges each deployment into what it
has, so the next deployment to the group would replace them, and on the classic nucleus the thing's deployment
would fix the trainer's version. The options are one JSON text, because a merge cannot remove a key.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

from components.runtime.component_errors import ConfigurationError

COMPONENT = "com.fedgrass.DeviceOptions"
KEY = "options"  # of its configuration
NONE = "{}"
log = logging.getLogger(__name__)


def merge_device_options(configuration: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Return a component's configuration with the device's options merged into its ``tasks``.

    Options of a task that the configuration does not have are ignored, with a warning.

    Args:
        configuration: of the trainer or the predictor.
        text: JSON, an object of options by task name; empty for none.

    Raises:
        ConfigurationError: the text is anything else.
    """
    options, tasks = _parse(text), configuration.get("tasks")
    merged = dict(configuration)
    if not options or not isinstance(tasks, Mapping):
        return merged
    merged["tasks"] = {
        name: {**given, **options[name]} if name in options and isinstance(given, Mapping) else given
        for name, given in tasks.items()
    }
    if unknown := sorted(options.keys() - tasks.keys()):
        log.warning("the device has options of tasks that it does not have: %s", ", ".join(unknown))
    return merged


def _parse(text: str) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(text or NONE)
    except (ValueError, RecursionError) as error:
        message = f"the configuration of {COMPONENT} has {KEY} that are not JSON: {error}"
        raise ConfigurationError(message) from error
    if not isinstance(found, dict) or not all(isinstance(options, dict) for options in found.values()):
        message = f"the configuration of {COMPONENT} has {KEY} that are not an object of options by task name"
        raise ConfigurationError(message)
    return found

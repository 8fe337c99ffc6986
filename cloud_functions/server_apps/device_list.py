"""The action ``devices``: the devices to which a run's ServerApp may send messages."""

from collections.abc import Mapping
from typing import Any

from cloud_functions.rounds import run_actions
from cloud_functions.selection import candidate_search
from cloud_functions.services import Services
from fedgrass.federation.errors import SettingsError

LARGEST_ANSWER = 5 * 1024**2  # bytes: a function returns at most 6 MB


def list_devices(services: Services, event: Mapping[str, object]) -> dict[str, Any]:
    """Return ``{"devices": [...]}``: the sorted thing names of a run's candidates.

    These are the devices that have the run's task and were seen within its ``seen_within_seconds``, bounded
    by its ``where``, ``thing_group`` and ``minimum_examples``.

    Raises:
        SettingsError: there is no such run, none of its devices can be asked by a ServerApp, or they are too
            many to be listed.
    """
    run = run_actions.known_run(services, run_actions.named_run(event))
    run_actions.check_has_server_app(run)
    needs = candidate_search.requirements(services, run.settings)
    names = sorted(device.device for device in candidate_search.suitable(services, needs))
    if (size := sum(len(name) + 4 for name in names)) > LARGEST_ANSWER:
        message = (
            f"the run has {len(names):,} devices, whose names take {size:,} bytes, and at most"
            f" {LARGEST_ANSWER:,} can be listed: narrow the run's `where` or thing_group"
        )
        raise SettingsError(message)
    return {"devices": names}

"""The keys of the bucket: the one place where Python spells them.

    models/<run>/<round>.safetensors                    a global model, written once; 0 is the initial one
    models/<task>/latest.json                           which model of a task is the newest
    updates/<thing>/<run>/<round>-<attempt>.safetensors a client update; a lifecycle rule expires them
    rounds/<run>/<round>-<attempt>.json                 the cohort that was chosen, written once

Devices may write ``updates/<their own thing name>/`` and read ``models/``, nothing else.
"""

from fedgrass.federation.names import checked_name


def model(run: str, number: int) -> str:
    """Return the key of the global model that round ``number`` of a run made."""
    return f"models/{checked_name('run', run)}/{number}.safetensors"


def latest_model(task: str) -> str:
    """Return the key of the pointer to a task's newest global model."""
    return f"models/{checked_name('task', task)}/latest.json"


def update(thing: str, run: str, number: int, attempt: int) -> str:
    """Return the key where ``thing`` puts its update for one attempt at a round."""
    return f"updates/{checked_name('thing', thing)}/{checked_name('run', run)}/{number}-{attempt}.safetensors"


def cohort(run: str, number: int, attempt: int) -> str:
    """Return the key of the list of devices that one attempt at a round asks."""
    return f"rounds/{checked_name('run', run)}/{number}-{attempt}.json"

"""The keys of the bucket: the one place where Python spells them.

    models/<run>/<round>.safetensors                    a global model, written once; 0 is the initial one
    models/<run>/<round>.<state>.safetensors            what the server keeps beside it: momentum, ...
    models/<run>/<round>.<kind>.safetensors             ... in the encoding that devices download
    models/<task>/latest.json                           which model of a task is the newest
    updates/<thing>/<run>/<round>-<attempt>.safetensors a client update; a lifecycle rule expires them
    rounds/<run>/run.json                               the run as it was created, written once
    rounds/<run>/<round>-<attempt>.json                 the cohort that was chosen, written once
    rounds/<run>/<round>.json                           how the round was closed, written once
    drafts/<run>/<round>-<attempt>/<lease>/...          what an averager made, to be kept once it closed
    drafts/<run>/<round>-<attempt>/parts/...            sums of groups and shards of the model

Devices may write ``updates/<their own thing name>/`` and read ``models/``, nothing else.
"""

from fedgrass.federation.messages.encoding_settings import Kind
from fedgrass.federation.names import checked_name


def model(run: str, number: int) -> str:
    """Return the key of the global model that round ``number`` of a run made."""
    return f"models/{checked_name('run', run)}/{number}.safetensors"


def state(run: str, number: int, name: str) -> str:
    """Return the key of what the server keeps beside the model of round ``number``, such as its momentum."""
    return f"models/{checked_name('run', run)}/{number}.{name}.safetensors"


def draft(run: str, number: int, attempt: int, lease: str, file: str) -> str:
    """Return the key of what the averager with a lease made: ``model``, a state, or ``round``, a manifest."""
    ending = "json" if file == "round" else "safetensors"
    return f"drafts/{checked_name('run', run)}/{number}-{attempt}/{lease}/{file}.{ending}"


def part(run: str, number: int, attempt: int, file: str) -> str:
    """Return the key of a part of an average that other averagers make: sums of groups, shards."""
    return f"drafts/{checked_name('run', run)}/{number}-{attempt}/parts/{file}"


def encoded_model(run: str, number: int, kind: Kind) -> str:
    """Return the key of the same model as devices download it, in the encoding ``kind``."""
    return f"models/{checked_name('run', run)}/{number}.{kind}.safetensors"


def latest_model(task: str) -> str:
    """Return the key of the pointer to a task's newest global model."""
    return f"models/{checked_name('task', task)}/latest.json"


def update(thing: str, run: str, number: int, attempt: int) -> str:
    """Return the key where ``thing`` puts its update for one attempt at a round."""
    return f"updates/{checked_name('thing', thing)}/{checked_name('run', run)}/{number}-{attempt}.safetensors"


def cohort(run: str, number: int, attempt: int) -> str:
    """Return the key of the list of devices that one attempt at a round asks."""
    return f"rounds/{checked_name('run', run)}/{number}-{attempt}.json"


def run_manifest(run: str) -> str:
    """Return the key of what is kept of a run beside the table: the run as it was created."""
    return f"rounds/{checked_name('run', run)}/run.json"


def round_manifest(run: str, number: int) -> str:
    """Return the key of what is kept of a closed round beside the table; only one attempt is ever closed."""
    return f"rounds/{checked_name('run', run)}/{number}.json"

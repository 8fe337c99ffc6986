"""The object keys of the bucket, spelled in this one place.

    models/<run>/<round>.safetensors                    a global model, written once; 0 is the initial one
    models/<run>/<round>.<state>.safetensors            server state of that model: momentum, ...
    models/<run>/frozen.safetensors                     the frozen arrays that all devices need, written once
    models/<run>/<round>.<kind>.safetensors             the same model, encoded for download
    models/<run>/<round>.json                           a query of statistics, for the round after that one
    models/<task>/latest.json                           the pointer to a task's latest model
    models/<task>/aliases/<alias>.json                  the model that an alias names, and its former ones
    models/<name>/imported.json                         the origin of the imported model <name>/0
    updates/<thing>/<run>/<round>-<attempt>.safetensors a device's update; a lifecycle rule expires it
    models/<run>/content/<sha256>.safetensors           the content of a ServerApp's messages, written once
    logs/<thing>/<id>.txt                               a device's log lines; a lifecycle rule expires them
    rounds/<run>/<round>.messages.json                  which device gets which of them, written once
    rounds/<run>/server_app.safetensors                 what a ServerApp needs to be resumed
    rounds/<run>/server_app.zip                         the files of a ServerApp that runs in a container
    rounds/<run>/run.json                               the run as it was created, written once
    rounds/<run>/<round>-<attempt>.json                 the selected cohort, written once
    rounds/<run>/<round>.json                           how the round was closed, written once
    rounds/<run>/<round>.statistics.json                the merged statistics of a round, written once
    drafts/<run>/<round>-<attempt>/<lease>/...          an averager's output, copied once the round is closed
    drafts/<run>/<round>-<attempt>/parts/...            partial sums and shards of the model

Devices may write ``updates/`` and ``logs/`` below their own thing name and read ``models/``, nothing else.
"""

from fedgrass.federation.messages.message_fields import checked_name
from fedgrass.federation.messages.message_types import Kind


def model(run: str, number: int) -> str:
    """Return the key of the global model produced by round ``number`` of a run."""
    return f"models/{checked_name('run', run)}/{number}.safetensors"


def run_of_model(key: str) -> str:
    """Return the run that a model's key names; an empty text for an empty key."""
    return key.split("/")[1] if key else ""


def frozen(run: str) -> str:
    """Return the key of a run's frozen arrays, which devices download once."""
    return f"models/{checked_name('run', run)}/frozen.safetensors"


def state(run: str, number: int, name: str) -> str:
    """Return the key of a server state, such as momentum, that belongs to the model of round ``number``."""
    return f"models/{checked_name('run', run)}/{number}.{name}.safetensors"


def draft(run: str, number: int, attempt: int, lease: str, file: str) -> str:
    """Return the key of a draft by the holder of a lease.

    ``file`` is ``model``, a state, ``round`` (a manifest), ``query`` or ``statistics``.
    """
    ending = "json" if file in {"round", "query", "statistics"} else "safetensors"
    return f"drafts/{checked_name('run', run)}/{number}-{attempt}/{lease}/{file}.{ending}"


def part(run: str, number: int, attempt: int, file: str) -> str:
    """Return the key of another averager's part of an average: a partial sum or a shard."""
    return f"drafts/{checked_name('run', run)}/{number}-{attempt}/parts/{file}"


def encoded_model(run: str, number: int, kind: Kind) -> str:
    """Return the key of the global model of round ``number`` in the download encoding ``kind``."""
    return f"models/{checked_name('run', run)}/{number}.{kind}.safetensors"


def query(run: str, number: int) -> str:
    """Return the key of the query that the devices get in the round of statistics after round ``number``."""
    return f"models/{checked_name('run', run)}/{number}.json"


def content(run: str, sha256: str) -> str:
    """Return the key of a file with the content of messages, or with the arrays of some, by its SHA-256."""
    return f"models/{checked_name('run', run)}/content/{sha256}.safetensors"


def messages(run: str, number: int) -> str:
    """Return the key of the list of the messages of round ``number``, which devices cannot read."""
    return f"rounds/{checked_name('run', run)}/{number}.messages.json"


def server_app(run: str) -> str:
    """Return the key of the state from which the run's ServerApp is resumed."""
    return f"rounds/{checked_name('run', run)}/server_app.safetensors"


def server_app_files(run: str) -> str:
    """Return the key of the zip with the app of a run whose ServerApp runs in a container."""
    return f"rounds/{checked_name('run', run)}/server_app.zip"


def statistics(run: str, number: int) -> str:
    """Return the key of the merged statistics of round ``number``, which devices cannot read."""
    return f"rounds/{checked_name('run', run)}/{number}.statistics.json"


def latest_model(task: str) -> str:
    """Return the key of the pointer to a task's latest global model."""
    return f"models/{checked_name('task', task)}/latest.json"


def model_alias(task: str, alias: str) -> str:
    """Return the key of the model that an alias of a task names."""
    return f"{model_aliases(task)}{checked_name('alias', alias)}.json"


def model_aliases(task: str) -> str:
    """Return the prefix of the keys of a task's aliases."""
    return f"models/{checked_name('task', task)}/aliases/"


def imported_model(name: str) -> str:
    """Return the key of what is known of an imported model, whose own key is that of model 0 of a run."""
    return f"models/{checked_name('run', name)}/imported.json"


def update(thing: str, run: str, number: int, attempt: int) -> str:
    """Return the key to which ``thing`` uploads its update for one attempt at a round."""
    return f"updates/{checked_name('thing', thing)}/{checked_name('run', run)}/{number}-{attempt}.safetensors"


def device_log(thing: str, request: str) -> str:
    """Return the key to which ``thing`` uploads its log lines for a request with an id."""
    return f"{device_log_prefix(thing)}{request}.txt"


def device_log_prefix(thing: str) -> str:
    """Return the prefix of the log lines that ``thing`` has uploaded."""
    return f"logs/{checked_name('thing', thing)}/"


def cohort(run: str, number: int, attempt: int) -> str:
    """Return the key of the list of devices asked in one attempt at a round."""
    return f"rounds/{checked_name('run', run)}/{number}-{attempt}.json"


def run_manifest(run: str) -> str:
    """Return the key of a run's manifest: the run as it was created, kept outside the table."""
    return f"rounds/{checked_name('run', run)}/run.json"


def round_manifest(run: str, number: int) -> str:
    """Return the key of a closed round's manifest. It has no attempt: at most one attempt is ever closed."""
    return f"rounds/{checked_name('run', run)}/{number}.json"

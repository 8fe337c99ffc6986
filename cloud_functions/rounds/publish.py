"""Publish what a round produced: keep its model, then announce it as the task's latest.

While a round is averaged, its files are drafts under the name of the averager's lease. Once the round is
closed under that lease, its drafts are copied to their permanent keys. Every function here can be repeated;
nothing that was published is overwritten, and the pointer to a task's latest model never moves backwards.
"""

from msgspec import UNSET

from cloud_functions.aggregation import guarded_strategy
from cloud_functions.aggregation.model_files import fingerprint
from cloud_functions.aggregation.new_model import draft
from cloud_functions.recovery import manifests
from cloud_functions.rounds.open_round import deadline_of
from cloud_functions.services import Services
from cloud_functions.statistics.statistics_files import forget_answers, keep_file
from fedgrass.federation import messages, object_keys, topics
from fedgrass.federation.errors import MessageError, RunBehind, SettingsError, UpdateRefused
from fedgrass.federation.messages import NewModel
from fedgrass.federation.rounds import Round, Work, is_newer
from fedgrass.federation.runs import Run


def publish_round(services: Services, run: Run, closed_round: Round) -> str:
    """Publish a closed round: keep its model and its manifest, and announce the model.

    Returns:
        Which draft was lost before it was kept, so that nothing was published; empty if all is published.

    Raises:
        RunBehind: the bucket has another result of that round; see recovery/manifests.py.
    """
    services.alarms.cancel(deadline_of(closed_round))
    # The model comes before the manifest, in case this worker crashes in between and the table is restored:
    # `repair` takes a model without a manifest for a closed round, but a manifest needs its model.
    if closed_round.work is Work.TRAIN and (lost := keep_model(services, run, closed_round)):
        return lost
    manifests.keep_round(services, closed_round)
    if closed_round.work is Work.STATISTICS:  # a manifest may precede it: `repair` publishes the round again
        if lost := keep_file(services, run, closed_round):
            return lost
        forget_answers(services, closed_round)
        return ""
    if closed_round.work in {Work.EVALUATE, Work.MESSAGE}:
        return ""
    model = model_of(services, run, closed_round)
    if make_latest(services, model):
        topic = topics.of_models(services.fleet, run.settings.task)
        services.publisher.publish([(topic, messages.encode(model))])
    return ""


def model_of(services: Services, run: Run, closed_round: Round) -> NewModel:
    """Return the message about the model that a closed round of training has made."""
    number, sha256, size = closed_round.number, closed_round.model_sha256, closed_round.model_bytes
    return describe_model(services, run, number, sha256, size, closed_round.closed_at)


def describe_model(  # noqa: PLR0913, PLR0917 - the parts of the message
    services: Services, run: Run, number: int, sha256: str, size: int, made_at: int
) -> NewModel:
    """Return the message about model ``number`` of a run, a file of ``size`` bytes."""
    return NewModel(
        task=run.settings.task,
        run=run.name,
        round=number,
        bucket=services.bucket.name,
        key=object_keys.model(run.name, number),
        sha256=sha256,
        bytes=size,
        closed_at=made_at,
        shared=run.settings.shared or UNSET,
        frozen_sha256=run.settings.frozen_sha256 or UNSET,
        frozen=run.frozen or UNSET,
        continues=object_keys.run_of_model(run.continued_from) or UNSET,
    )


def keep_model(services: Services, run: Run, closed_round: Round) -> str:
    """Copy the drafts of a closed round to their permanent keys, each once.

    Returns:
        Which draft is lost, with no object at its permanent key; empty if all are kept.

    Raises:
        RunBehind: the bucket has another model of that round.
    """
    number = closed_round.number
    copies = {"model": (object_keys.model(run.name, number), closed_round.model_sha256)}
    try:
        names = guarded_strategy.load(run.settings).state
    except SettingsError as error:  # a custom strategy that is no longer deployed: the next round reports it
        services.log(f"the server's state of round {number} is not kept: {error}")
        names = ()
    for name in names:
        carried = closed_round.carried.get(name)
        copies[name] = (object_keys.state(run.name, number, name), carried.sha256 if carried else "")
    if closed_round.download_sha256:
        kind = run.settings.download_encoding
        copies[kind] = (object_keys.encoded_model(run.name, number, kind), closed_round.download_sha256)
    for file, (key, expected) in copies.items():
        if not _keep_once(services, closed_round, draft(closed_round, file), key, expected):
            return f"the draft {draft(closed_round, file)} is gone, and {key} is not there"
    return ""


def _keep_once(services: Services, closed_round: Round, source: str, target: str, expected: str) -> bool:
    """Copy a draft to its permanent key, unless it was copied before; return False if it is lost.

    ``source`` is the key of the draft; ``expected`` is the SHA-256 of the file, empty if it is not known.

    Raises:
        RunBehind: there is another file at the permanent key.
    """
    try:
        if services.bucket.copy_once(source, target):
            return True
    except KeyError:
        if not services.bucket.exists(target):
            return False
    if not expected:  # the checksums of the server's state are not stored; it was kept with the model
        return True
    try:
        found = fingerprint(services.bucket, target).sha256
    except UpdateRefused as error:
        found = str(error)
    if found != expected:
        raise RunBehind(manifests.behind(closed_round.run, target))
    return True


def make_latest(services: Services, model: NewModel) -> bool:
    """Point to a model as the latest of its task; return False if the pointer names a newer one.

    A worker may stall between closing a round and this call, while others publish later models.
    """
    key, payload = object_keys.latest_model(model.task), messages.encode(model)
    while True:
        latest, version = _read_latest(services, key)
        if latest and (latest.run, latest.round) == (model.run, model.round):
            return latest.sha256 == model.sha256  # a round has only one model
        if latest and is_newer(latest, model):
            return False
        if services.bucket.write_over(key, payload, version):
            return True


def _read_latest(services: Services, key: str) -> tuple[NewModel | None, str | None]:
    """Return the model that the pointer names, None if it cannot be read, and the pointer's version."""
    try:
        payload, version = services.bucket.read_version(key, messages.LARGEST_MESSAGE)
    except KeyError:
        return None, None
    except UpdateRefused as error:
        message = f"{error}: it should be the pointer to a task's newest model; remove it"
        raise MessageError(message) from error
    try:
        return messages.decode(payload, NewModel), version
    except MessageError as error:
        services.log(f"{key} is damaged and is written again: {error}", "WARNING")
        return None, version

"""The pointer to a task's newest global model, which is never turned back."""

from cloud_functions.cloud import Cloud
from fedgrass.federation import messages, object_keys
from fedgrass.federation.errors import MessageError, UpdateRefused
from fedgrass.federation.messages import NewModel
from fedgrass.federation.newest import is_newer


def make_newest(cloud: Cloud, model: NewModel) -> bool:
    """Make a model the newest of its task; return False if a newer one is that already.

    A worker may stall between closing a round and this, while others publish later models.
    """
    key, said = object_keys.latest_model(model.task), messages.encode(model)
    while True:
        stored, version = _stored(cloud, key)
        if stored and (stored.run, stored.round) == (model.run, model.round):
            return stored.sha256 == model.sha256  # of one round there is one model
        if stored and is_newer(stored, model):
            return False
        if cloud.bucket.write_over(key, said, version):
            return True


def _stored(cloud: Cloud, key: str) -> tuple[NewModel | None, str | None]:
    """Return what the pointer says, if it can be read, and the version of it."""
    try:
        said, version = cloud.bucket.read_version(key, messages.LARGEST_MESSAGE)
    except KeyError:
        return None, None
    except UpdateRefused as error:
        message = f"{error}: it should be the pointer to a task's newest model; remove it"
        raise MessageError(message) from error
    try:
        return messages.decode(said, NewModel), version
    except MessageError as error:
        cloud.log(f"{key} is written anew: {error}", "WARNING")
        return None, version

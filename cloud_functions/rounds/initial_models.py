"""The model that a run starts from: checked as it streams by, and written as devices download it."""

from typing import NamedTuple

from cloud_functions.aggregation.model_files import Fingerprint, fingerprint, whole
from cloud_functions.services import Services
from fedgrass.federation import encodings, object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.weights import sha256


class Download(NamedTuple):
    """What devices download in a model's place; empty if that is the model itself."""

    sha256: str = ""
    bytes: int = 0


def read_initial(services: Services, name: str) -> Fingerprint:
    """Read the initial model of a run, however large it is.

    Raises:
        SettingsError: there is none.
        UpdateRefused: it is no file of finite weights.
    """
    key = object_keys.model(name, 0)
    try:
        return fingerprint(services.bucket, key, check=True)
    except KeyError as error:
        message = (
            f"run {name!r} has no initial model: upload one to {key} first (`fedgrass run start` does with"
            " --model FILE), or continue from another run's (--continue-from RUN/ROUND)"
        )
        raise SettingsError(message) from error


def write_for_download(services: Services, name: str, settings: RunSettings, model: Fingerprint) -> Download:
    """Write the initial model as devices download it, where that is another file.

    Raises:
        SettingsError: the model is too large to be encoded here.
    """
    kind = settings.download_encoding
    if not encodings.is_encoded(model.layout, settings.download):
        return Download()
    if model.bytes > services.largest_held:
        raise SettingsError(too_large(services, f"the run's download_encoding is {kind!r}", model.bytes))
    data = whole(services.bucket, object_keys.model(name, 0), model.bytes, model.version)
    encoded = encodings.encode_model(data, settings.download)
    stored = services.bucket.write_once(object_keys.encoded_model(name, 0, kind), encoded)
    return Download(sha256(stored), len(stored))


def copy_to_initial(services: Services, source: str, name: str) -> None:
    """Copy a model to a run that continues from it, unless it is there already.

    Raises:
        KeyError: there is no such model.
        SettingsError: the run has another initial model, or the model is too large to be copied here.
        UpdateRefused: the model is no weights file.
    """
    target, found = object_keys.model(name, 0), fingerprint(services.bucket, source)
    if found.bytes > services.largest_held:
        raise SettingsError(too_large(services, f"{source} is copied to {target}", found.bytes))
    data = (
        None if services.bucket.exists(target) else whole(services.bucket, source, found.bytes, found.version)
    )
    if data is not None and services.bucket.write_over(target, data, None):
        return
    if fingerprint(services.bucket, target).sha256 != found.sha256:
        message = f"run {name!r} has another initial model already: choose another name"
        raise SettingsError(message)


def too_large(services: Services, why: str, size: int) -> str:
    """Return in words that a model is too large to be held, and the way out."""
    return (
        f"{why}, for which a function holds the whole model: it has {size:,} bytes, and with"
        f" {services.memory_bytes // 1024**2:,} MB of memory {services.largest_held:,} is the most. Give the"
        " function more memory (template.yaml), or leave the model in float32 and start from a file (--model)"
    )

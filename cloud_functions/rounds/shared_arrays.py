"""Checks of a partial model at the start of a run: which arrays it shares, and its file of frozen ones.

The roles of arrays are the task's, which only devices and the operator's machine can load. What the cloud can
check are the run's settings against the initial model and the frozen file in the bucket.
"""

from cloud_functions.aggregation.model_files import fingerprint
from cloud_functions.services import Services
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import CarriedFile
from fedgrass.federation.runs import Run
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.weights import Layout
from fedgrass.federation.weights.array_sharing import check_shared, shown


def check_model(model: Layout, settings: RunSettings) -> None:
    """Check that an initial model has exactly the arrays that the run's setting ``shared`` names.

    Raises:
        SettingsError: the model has another array, or a pattern matches none.
    """
    check_shared(model.arrays, settings.shared)


def frozen_file(
    services: Services, name: str, settings: RunSettings, model: Layout, former: Run | None
) -> CarriedFile | None:
    """Return the file of a run's frozen arrays, which devices download; None if their tasks bring them.

    A run that continues another with the same frozen arrays uses that run's file.

    Raises:
        SettingsError: it has an array that the run's model has too.
        UpdateRefused: it is not a file of finite weights.
    """
    if not settings.frozen_sha256:
        return None
    key = object_keys.frozen(name)
    try:
        found = fingerprint(services.bucket, key, check=True)
    except KeyError:
        same = former is not None and former.settings.frozen_sha256 == settings.frozen_sha256
        return former.frozen if former is not None and same else None
    for array in found.layout.arrays.keys() & model.arrays.keys():
        message = (
            f"the array {shown(array)} is in the initial model of run {name!r} and in {key}: an array is"
            " shared or frozen, not both"
        )
        raise SettingsError(message)
    return CarriedFile(key=key, sha256=found.sha256, bytes=found.bytes)

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


def check(
    services: Services, name: str, settings: RunSettings, model: Layout, former: Run | None
) -> CarriedFile | None:
    """Check a partial model at the start of a run.

    Args:
        services: the ports.
        name: of the run.
        settings: of the run.
        model: the layout of its initial model.
        former: the run that it continues, if any.

    Returns:
        The file of its frozen arrays, which devices download; None if their tasks bring them.

    Raises:
        SettingsError: the model has another array than the setting ``shared`` names, a pattern matches none,
            or an array is shared and frozen.
        UpdateRefused: the frozen file is not a file of finite weights.
    """
    check_shared(model.arrays, settings.shared)
    return _frozen_file(services, name, settings, model, former)


def _frozen_file(
    services: Services, name: str, settings: RunSettings, model: Layout, former: Run | None
) -> CarriedFile | None:
    """Return the file of a run's frozen arrays, or that of the run that it continues with the same ones."""
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

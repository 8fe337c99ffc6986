"""Read the files of a new run: its initial model and its frozen arrays, checked before they are uploaded."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from fedgrass.console.options import read
from fedgrass.console.runs.fleet_operator import LARGEST_MODEL
from fedgrass.federation.encodings.array_types import read_arrays
from fedgrass.federation.errors import SettingsError, UpdateRefused
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.weights import (
    PREFIX,
    check_finite,
    encode,
    read_layout,
    read_layout_and_metadata,
    views,
)
from fedgrass.federation.weights.array_sharing import (
    FROZEN_SHA256,
    check_shared,
    frozen_fingerprint,
    is_named,
)


def read_model(path: Path, shared: Sequence[str] = (), *, in_order: bool = False) -> bytes:
    """Return a model file as runs store it: canonical encoding, each array in its own data type.

    Args:
        path: of the file.
        shared: patterns of the arrays that the run shares, to which the model is reduced; empty: all.
        in_order: whether to keep the order of the arrays, which matters to Flower apps.

    Raises:
        SettingsError: the file cannot be read, is not a safetensors file, has values that are not finite, or
            a pattern matches none of its arrays.
    """
    data = read(path, LARGEST_MODEL, named="--model")
    try:
        layout = read_layout(data, len(data))
        arrays = views(data, layout)
        check_finite(arrays)
        if shared:
            arrays = {name: array for name, array in arrays.items() if is_named(name, shared)}
            check_shared(arrays or layout.arrays, shared)
        return encode(arrays, layout, in_order=in_order)
    except UpdateRefused as error:
        message = f"--model {path} is not a model in safetensors format: {error}"
        raise SettingsError(message) from error


def with_frozen(settings: RunSettings, path: Path) -> RunSettings:
    """Return the settings with the fingerprint of the frozen arrays that a model file names."""
    with path.open("rb") as file:  # only the header: the file was read and checked before
        prefix = file.read(PREFIX)
        head = prefix + file.read(int.from_bytes(prefix, "little"))
    _, metadata = read_layout_and_metadata(head, path.stat().st_size)
    found, chosen = metadata.get(FROZEN_SHA256), settings.frozen_sha256
    if found and chosen and chosen != found:
        message = f"the run's frozen_sha256 is {chosen}, but the frozen arrays of --model {path} have {found}"
        raise SettingsError(message)
    return msgspec.structs.replace(settings, frozen_sha256=chosen or found)


def read_frozen(path: Path, settings: RunSettings) -> bytes:
    """Return a file of frozen arrays, checked against the run's fingerprint. Raises SettingsError."""
    data = read(path, LARGEST_MODEL, named="--frozen")
    try:
        arrays = read_arrays(data)
        check_finite(arrays)
        found = frozen_fingerprint(arrays)
    except UpdateRefused as error:
        message = f"--frozen {path} is not a file of arrays in safetensors format: {error}"
        raise SettingsError(message) from error
    if found != settings.frozen_sha256:
        expected = f"is {settings.frozen_sha256}" if settings.frozen_sha256 else "is not set"
        message = (
            f"--frozen {path} has the fingerprint {found}, but the run's frozen_sha256 {expected}: write both"
            " files at once, with `fedgrass task weights --out FILE --frozen-out FILE`"
        )
        raise SettingsError(message)
    return data

"""The initial model of a run for a task: its shared arrays, and the fingerprint of its frozen ones."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from components.runtime.array_files import completed
from components.trainer.tasks.task import Task
from components.trainer.worker.model_parts import sharing_of
from fedgrass.federation.encodings.array_types import read_task_arrays
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.weights import Arrays, dtype_of, encode
from fedgrass.federation.weights.array_sharing import (
    FROZEN_SHA256,
    Role,
    Roles,
    frozen_fingerprint,
    roles_of,
    shown,
)

_OTHER_SEED = 1_234_567_891


class InitialModel(Struct, frozen=True):
    """All initial arrays of a task, of which a run's model has the shared ones."""

    arrays: Mapping[str, NDArray[np.generic]]
    roles: Roles
    frozen_sha256: str  # empty: no frozen arrays
    in_order: bool = False  # whether the file keeps the order of the arrays

    @property
    def shared(self) -> dict[str, NDArray[np.generic]]:
        """The arrays of the run's model."""
        return self.roles.select(self.arrays, Role.SHARED)

    @property
    def metadata(self) -> dict[str, str]:
        """The entries of the model file's metadata that `fedgrass run start` reads."""
        return {FROZEN_SHA256: self.frozen_sha256} if self.frozen_sha256 else {}

    def file(self) -> bytes:
        """Return the file of the run's model."""
        return encode(self.shared, metadata=self.metadata, in_order=self.in_order)

    def frozen_file(self) -> bytes:
        """Return the file of the frozen arrays, from which devices can get them."""
        return encode(self.roles.select(self.arrays, Role.FROZEN))

    def settings(self, settings: RunSettings) -> RunSettings:
        """Return a run's settings with the fingerprint of the frozen arrays.

        Raises:
            SettingsError: they have another one.
        """
        found, chosen = self.frozen_sha256, settings.frozen_sha256
        if chosen and chosen != found:
            message = (
                f"the run's frozen_sha256 is {chosen}, but the task's frozen arrays have"
                f" {found or 'no fingerprint, since there are none'}"
            )
            raise SettingsError(message)
        return msgspec.structs.replace(settings, frozen_sha256=found or None)

    def complete(self, model: bytes) -> dict[str, NDArray[np.generic]]:
        """Return all arrays of the task for a run's model: its own ones with initial private arrays."""
        return completed(self.arrays, read_task_arrays(model))


def initial_model(task: Task, seed: int, narrowed: Sequence[str] = ()) -> InitialModel:
    """Return the initial model of a task.

    Args:
        task: the task.
        seed: of the weights.
        narrowed: the run's setting ``shared``.

    Raises:
        SettingsError: the patterns do not fit the arrays; see ``roles_of``.
        UpdateRefused: a frozen array has a type that weights files do not support.
    """
    arrays: Arrays = task.initial_weights(seed)
    roles = roles_of(arrays, sharing_of(task), narrowed)
    fingerprint = frozen_fingerprint(roles.select(arrays, Role.FROZEN))
    return InitialModel(arrays, roles, fingerprint, in_order=getattr(task, "keeps_order", False))


def check_frozen(task: Task, arrays: Arrays) -> None:
    """Check that the frozen arrays of a task do not depend on the seed.

    Args:
        task: the task.
        arrays: its initial arrays for some seed.

    Raises:
        SettingsError: one does, so that two devices could have different ones; the text names it.
    """
    frozen = roles_of(arrays, sharing_of(task)).names(Role.FROZEN)
    others = task.initial_weights(_OTHER_SEED) if frozen else {}
    for name in frozen:
        if name not in others or not np.array_equal(arrays[name], others[name]):
            message = (
                f"the frozen array {shown(name)} depends on the seed of initial_weights(), but frozen arrays"
                " are the same on all devices: load it from a file of the component, or draw it from a fixed"
                " seed"
            )
            raise SettingsError(message)


def describe_roles(model: InitialModel) -> str:
    """Return the number of arrays and of bytes of each role."""
    return ", ".join(
        f"{role}: {len(names)} {'array' if len(names) == 1 else 'arrays'} of {size:,} bytes"
        for role in Role
        if (names := model.roles.names(role))
        for size in [sum(model.arrays[name].nbytes for name in names)]
    )


def array_lines(model: InitialModel) -> list[str]:
    """Return a line per array: its role, type, shape, bytes and name, in aligned columns."""
    shapes = {name: str(array.shape) for name, array in model.arrays.items()}
    width = max(map(len, shapes.values()), default=0) + 2
    return [
        f"      {role:9}{dtype_of(name, array):6}{shapes[name]:{width}}{array.nbytes:>14,} bytes  {name}"
        for name, role in model.roles.of.items()
        for array in [model.arrays[name]]
    ]

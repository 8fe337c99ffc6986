"""What counts as too little memory: a MemoryError, ENOMEM, or a library that cannot be mapped."""

import errno

import pytest

from components.runtime.component_errors import ConfigurationError
from components.trainer.worker.resource_limits import is_memory_error


def caused_by(cause: BaseException) -> ConfigurationError:
    error = ConfigurationError("task 'noise' cannot be loaded")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("_C.so: failed to map segment from shared object"),
        caused_by(MemoryError()),
        caused_by(ImportError("_C.so: failed to map segment from shared object")),
    ],
    ids=repr,
)
def test_too_little_memory_is_recognized(error: BaseException) -> None:
    assert is_memory_error(error)


@pytest.mark.parametrize(
    "error",
    [
        ImportError("No module named 'torch'"),
        OSError(errno.ENOSPC, "No space left"),
        ValueError("memory"),
        None,
    ],
    ids=repr,
)
def test_other_errors_are_not(error: BaseException | None) -> None:
    assert not is_memory_error(error)

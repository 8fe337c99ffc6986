"""Which device of the machine a training runs on."""

import logging
from collections.abc import Callable

import torch

log = logging.getLogger(__name__)


def choose_device(is_available: Callable[[], bool] = torch.cuda.is_available) -> torch.device:
    """Return the GPU where there is one that works, else the processor.

    A GPU that is listed may not work all the same: its memory is full, or the installed PyTorch was not built
    for it. A work is better done slowly than not at all.
    """
    if not is_available():
        return torch.device("cpu")
    gpu = torch.device("cuda")
    try:
        torch.zeros(1, device=gpu).add_(1)
    except (RuntimeError, AssertionError) as error:  # a PyTorch without CUDA asserts that it has it
        log.warning("the GPU cannot be used, the processor is: %s", str(error).splitlines()[0])
        return torch.device("cpu")
    return gpu

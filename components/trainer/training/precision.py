"""Which arithmetic a training uses: float32, or bfloat16 where that was found to be faster."""

import copy
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from components.trainer.training import structures
from components.trainer.training.losses import Loss, loss_of
from components.trainer.training.settings import TrainingSettings

PROCESSOR_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86-64 and of ARM, as Linux names them
SMALLEST_BATCH_SECONDS = 0.02  # below it the conversions cost more than the arithmetic gains
Batch = tuple[Any, Any]  # inputs and targets
log = logging.getLogger(__name__)
LEAST_GAIN = 1.2  # a measurement is noisy: less is no reason to change the arithmetic


def choose(
    model: nn.Module, loss: Loss, first_batch: Callable[[], Batch], settings: TrainingSettings
) -> torch.dtype | None:
    """Return the type for torch's autocast, None for plain float32.

    ``auto`` takes bfloat16 on a GPU that has it. On a processor that has it, both are
    measured on ``first_batch()``.
    A run with a ``seed`` asks for the same result each time, which must not hang on a measurement.
    """
    if settings.precision != "auto":
        return torch.bfloat16 if settings.precision == "bfloat16" else None
    if next((parameter.is_cuda for parameter in model.parameters()), False):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    if settings.seed is not None or not processor_has_bfloat16():
        return None
    try:
        batch = first_batch()
        plain = _seconds(model, loss, batch, None)
        if plain < SMALLEST_BATCH_SECONDS:
            return None
        mixed = _seconds(model, loss, batch, torch.bfloat16)
    except Exception as error:  # noqa: BLE001
        # A model that cannot be copied, a layer without bfloat16, too little memory for a copy: whatever a
        # trial runs into, the training does without it, and meets a real mistake itself.
        log.info("the training stays with float32, since bfloat16 cannot be tried: %s", error)
        return None
    log.info("a batch takes %.3f s in float32 and %.3f s in bfloat16", plain, mixed)
    return torch.bfloat16 if plain > LEAST_GAIN * mixed else None


def processor_has_bfloat16(description: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether Linux says that the processor computes in bfloat16 itself."""
    try:
        lines = description.read_text(errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return bool(PROCESSOR_FLAGS & set(flags.split()))


def _seconds(model: nn.Module, loss: Loss, batch: Batch, dtype: torch.dtype | None) -> float:
    """Return how long a batch takes there and back, once warm; neither model nor random numbers are moved."""
    model = copy.deepcopy(model).train()
    seconds, kind = 0.0, next(model.parameters()).device.type
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            started = time.perf_counter()
            with torch.autocast(kind, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                outputs = structures.call(model, batch[0])
            loss_of(loss, structures.to_float(outputs) if dtype else outputs, batch[1]).backward()  # type: ignore[no-untyped-call]
            seconds = time.perf_counter() - started
            if seconds < SMALLEST_BATCH_SECONDS and dtype is None:
                break
    return seconds

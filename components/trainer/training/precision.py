"""Where and in which precision a training computes: CPU or GPU, float32 or bfloat16.

bfloat16 is used where it was measured to be faster. Networks whose parameters are float16, bfloat16 or
float64 still take data in float32.
"""

import copy
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.trainer.training import structures
from components.trainer.training.losses import Loss, loss_of
from components.trainer.training.sgd import TrainingSettings

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


_HALVES = (torch.float16, torch.bfloat16)


def accept_float32(model: nn.Module) -> nn.Module:
    """Return the model; if all its parameters are of one other precision, its inputs are converted to that.

    A data set has float32, whatever the network computes in. The outputs of a half precision are converted
    back for the loss: a mean over many examples needs more than the 8 binary digits of bfloat16. Models of
    mixed precision convert by themselves where they want it.
    """
    types = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    if len(types) != 1 or types == {torch.float32}:
        return model
    own = types.pop()

    def to_own(tensor: Tensor) -> Tensor:
        return tensor.to(own)

    def before(_model: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return _each_float(args, to_own), _each_float(kwargs, to_own)

    def after(_model: nn.Module, _args: Any, outputs: Any) -> Any:
        return _each_float(outputs, Tensor.float)

    model.register_forward_pre_hook(before, with_kwargs=True)
    if own in _HALVES:
        model.register_forward_hook(after)
    return model


def _each_float(values: Any, convert: Callable[[Tensor], Tensor]) -> Any:
    """Return tensors, and plain lists, tuples and dicts of them, with the floats among them converted."""
    if isinstance(values, Tensor):
        return convert(values) if values.is_floating_point() else values
    if type(values) in {list, tuple}:
        return type(values)(_each_float(value, convert) for value in values)
    if type(values) is dict:
        return {name: _each_float(value, convert) for name, value in values.items()}
    return values


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

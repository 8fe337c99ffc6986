"""Device and precision of training: CPU or GPU, float32 or bfloat16.

bfloat16 is used where a measurement shows that it is faster. Models whose parameters are float16, bfloat16 or
float64 accept float32 inputs.
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

_PROCESSOR_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # names of the CPU features on x86-64 and ARM in Linux
_SMALLEST_BATCH_SECONDS = 0.02  # for faster batches, conversions cost more than the arithmetic gains
_LEAST_GAIN = 1.2  # speed-up that is certainly not measurement noise
_HALVES = (torch.float16, torch.bfloat16)
Batch = tuple[Any, Any]  # inputs and targets
log = logging.getLogger(__name__)


def choose(
    model: nn.Module, loss: Loss, first_batch: Callable[[], Batch], settings: TrainingSettings
) -> torch.dtype | None:
    """Return the dtype for torch's autocast; None for plain float32.

    With the setting ``auto``, a GPU that supports bfloat16 uses it. On a CPU that supports it, both
    precisions are measured on ``first_batch()``, except in a run with a ``seed``: its result must be
    reproducible and not depend on a measurement.

    Args:
        model: is not changed.
        loss: of a batch.
        first_batch: returns the inputs and targets to measure with; called only if needed.
        settings: of the round.
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
        if plain < _SMALLEST_BATCH_SECONDS:
            return None
        mixed = _seconds(model, loss, batch, torch.bfloat16)
    except Exception as error:  # noqa: BLE001 - the measurement is optional
        # The model cannot be copied, a layer does not support bfloat16, or memory does not suffice for a
        # copy. A real mistake in the task will be raised by the training itself.
        log.info("the training uses float32, since bfloat16 cannot be measured: %s", error)
        return None
    log.info("a batch takes %.3f s in float32 and %.3f s in bfloat16", plain, mixed)
    return torch.bfloat16 if plain > _LEAST_GAIN * mixed else None


def processor_has_bfloat16(description: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the CPU has bfloat16 instructions, according to Linux."""
    try:
        lines = description.read_text(errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return bool(_PROCESSOR_FLAGS & set(flags.split()))


def _seconds(model: nn.Module, loss: Loss, batch: Batch, dtype: torch.dtype | None) -> float:
    """Return the seconds of a warm forward and backward pass; neither model nor random state is changed."""
    model = copy.deepcopy(model).train()
    seconds, kind = 0.0, next(model.parameters()).device.type
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            started = time.perf_counter()
            with torch.autocast(kind, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                outputs = structures.call(model, batch[0])
            loss_of(loss, structures.to_float(outputs) if dtype else outputs, batch[1]).backward()  # type: ignore[no-untyped-call]
            seconds = time.perf_counter() - started
            if seconds < _SMALLEST_BATCH_SECONDS and dtype is None:
                break
    return seconds


def accept_float32(model: nn.Module) -> nn.Module:
    """Make a model convert its float inputs if all its parameters share a dtype other than float32.

    Data sets are float32, whatever the precision of the model. Outputs in half precision are converted to
    float32 for the loss: a mean over many examples needs more than the 8 significant bits of bfloat16. Models
    with parameters of several dtypes convert by themselves and are left unchanged.

    Returns:
        The same model.
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
    """Convert the floating-point tensors in a tensor or a plain list, tuple or dict."""
    if isinstance(values, Tensor):
        return convert(values) if values.is_floating_point() else values
    if type(values) in {list, tuple}:
        return type(values)(_each_float(value, convert) for value in values)
    if type(values) is dict:
        return {name: _each_float(value, convert) for name, value in values.items()}
    return values


def choose_device(is_available: Callable[[], bool] = torch.cuda.is_available) -> torch.device:
    """Return the GPU if there is one that works, else the CPU.

    A listed GPU may still fail because its memory is full or the installed PyTorch does not support it. A
    slow training is better than none.
    """
    if not is_available():
        return torch.device("cpu")
    gpu = torch.device("cuda")
    try:
        torch.zeros(1, device=gpu).add_(1)
    except (RuntimeError, AssertionError) as error:  # PyTorch without CUDA raises AssertionError
        log.warning("the GPU cannot be used, training on the CPU: %s", str(error).splitlines()[0])
        return torch.device("cpu")
    return gpu

"""Which trainings can be done together: those of equal models and losses, without code of the task's own."""

from collections.abc import Hashable
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from components.trainer.tasks.task import Task
from components.trainer.training import TorchTask, TrainingSettings
from components.trainer.training.hooks import Hooks
from components.trainer.training.torch_task import TrainingParts

_OWN_CODE = ("fit", "fit_corrected", "_train")
_HOOKS = ("make_optimizer", "make_scheduler")
_MODULE_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_MODULE_INTERNALS = frozenset(vars(nn.Module())) - {"training"}
_known: "WeakKeyDictionary[TorchTask, Hashable]" = WeakKeyDictionary()
_known_models: "WeakKeyDictionary[nn.Module, Hashable]" = WeakKeyDictionary()  # tasks may have one in common


class NotTogether(Exception):
    """Trainings cannot be done together; the text is the reason, a clause."""


def why_alone(task: Task) -> str:
    """Return why the clients of a task are trained one by one, as a clause; empty if they need not be."""
    if not isinstance(task, TorchTask):
        return f"{type(task).__name__} is no TorchTask"
    own = next((name for name in _OWN_CODE if _is_overridden(task, name, TorchTask)), "") or next(
        (name for name in _HOOKS if _is_overridden(task, name, Hooks)), ""
    )
    if own:
        return f"{type(task).__name__} has its own {own}"
    model = task.training_parts().model
    for name, module in model.named_modules():
        kind = f"the model's {type(module).__name__} {name!r}"
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            return f"{kind} keeps running statistics, which training changes"
        if any(vars(module)[hooks] for hooks in _MODULE_HOOKS):
            return f"{kind} has hooks"
    if other := next((p for p in model.parameters() if p.dtype != torch.float32 or p.is_cuda), None):
        return f"the model has parameters of {str(other.dtype).removeprefix('torch.')} on {other.device}"
    return ""


def why_settings_alone(chosen: TrainingSettings) -> str:
    """Return which setting of a run makes its clients train one by one, as a clause; empty: none does."""
    if chosen.patience_epochs:
        return f"training.patience_epochs is {chosen.patience_epochs}"
    if chosen.precision == "bfloat16":
        return "training.precision is bfloat16"
    return ""


def likeness(task: TorchTask) -> Hashable:
    """Return a value that is equal for tasks that train alike, whatever their weights and examples."""
    if task not in _known:
        _known[task] = _likeness(task.training_parts())
    return _known[task]


def _likeness(parts: TrainingParts) -> Hashable:
    loading, model = parts.loading, parts.model
    if model not in _known_models:
        _known_models[model] = _module_likeness(model)
    return (
        _known_models[model],
        _value_likeness(parts.loss),
        _value_likeness(loading.split),
        _value_likeness(loading.own_collate),
        str(parts.device),
        parts.defaults,
    )


def _is_overridden(task: TorchTask, name: str, base: type) -> bool:
    return getattr(type(task), name) is not getattr(base, name) or name in vars(task)


def _module_likeness(model: nn.Module) -> Hashable:
    """Return the structure of a module: its submodules, their plain attributes, and the shapes of arrays."""
    found: list[Hashable] = []
    for name, module in model.named_modules(remove_duplicate=False):
        own = {key: value for key, value in vars(module).items() if key not in _MODULE_INTERNALS}
        arrays = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        shapes = tuple((key, tuple(a.shape), str(a.dtype), a.requires_grad) for key, a in arrays)
        found.append((name, type(module), _value_likeness(own), shapes, _unsaved(module)))
    return tuple(found)


def _unsaved(module: nn.Module) -> Hashable:
    """Return the values of the buffers that are not in the state, which the weights do not contain."""
    names = module._non_persistent_buffers_set  # noqa: SLF001 - torch has no public way to ask
    return tuple((name, _value_likeness(module._buffers[name])) for name in sorted(names))  # noqa: SLF001


def _value_likeness(value: Any) -> Hashable:
    """Return a value by which attributes are compared; an object of another kind equals itself only."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | type):
        return type(value), value
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().cpu().contiguous().numpy().tobytes()
    if isinstance(value, nn.Module):
        return _module_likeness(value)
    if isinstance(value, dict):
        return tuple((key, _value_likeness(part)) for key, part in value.items())
    if isinstance(value, tuple | list):
        return type(value), tuple(_value_likeness(part) for part in value)
    if isinstance(value, MethodType) and isinstance(value.__self__, TorchTask):
        return value.__func__
    if isinstance(value, FunctionType) and value.__closure__ is None:
        return value.__code__, _value_likeness(value.__defaults__)
    return type(value), id(value)

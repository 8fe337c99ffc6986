"""The loss of a batch, class weights, and the metrics of an evaluation."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from components.runtime.component_errors import WorkFailed
from components.trainer.training import structures
from components.trainer.training.source_location import work_failed

Loss = Callable[..., Tensor]
# Loss classes are replaced by these functions, which accept class weights and are known to be binary or not.
_FUNCTIONS: dict[type, Loss] = {
    nn.CrossEntropyLoss: nn.functional.cross_entropy,
    nn.NLLLoss: nn.functional.nll_loss,
    nn.BCELoss: nn.functional.binary_cross_entropy,
    nn.BCEWithLogitsLoss: nn.functional.binary_cross_entropy_with_logits,
}
_PROBABILITIES: tuple[Loss, ...] = (nn.functional.binary_cross_entropy,)
_LOGITS: tuple[Loss, ...] = (nn.functional.binary_cross_entropy_with_logits,)


def default_loss(outputs: Any, targets: Any, weight: Tensor | None = None) -> Tensor:
    """Return the loss that the model computed itself, else the cross entropy of its logits.

    Args:
        outputs: logits of shape (batch, classes, ...), or a structure with ``loss`` or ``logits``.
        targets: int64 of shape (batch, ...), the classes.
        weight: of each class, float32 of shape (classes,); with it, the model's own loss is not used.

    Raises:
        WorkFailed: there is neither a loss nor logits with a target tensor.
    """
    own = structures.own_loss(outputs)
    if own is not None and weight is None:
        return own
    logits = structures.main_output(outputs)
    if logits is None or not isinstance(targets, Tensor):
        reason = (
            f"its outputs are {structures.describe(outputs)}"
            if logits is None
            else "the targets are not a single tensor"
        )
        message = (
            f"the model does not compute a loss, and {reason}: pass TorchTask a `loss`, a function of the"
            " outputs and the targets"
        )
        raise work_failed(message)
    return nn.functional.cross_entropy(logits, targets, weight=weight)


def as_loss(loss: Any, location: str = "") -> Loss:
    """Return a loss as a function; it may be given as a function, an object, or a class such as MSELoss.

    Raises:
        WorkFailed: it is not callable, or its class requires arguments.
    """
    if not callable(loss):
        message = f"the loss is {loss!r}: it must be a function of outputs and targets"
        raise work_failed(message, location)
    if not isinstance(loss, type):
        found: Loss = loss
        return found
    if loss in _FUNCTIONS:
        return _FUNCTIONS[loss]
    try:
        made: Loss = loss()
    except TypeError as error:
        message = f"the loss is the class {loss.__name__}, which needs arguments: pass an object ({error})"
        raise work_failed(message, location) from error
    if not callable(made):
        message = f"the loss is the class {loss.__name__}, whose objects are not callable: pass a function"
        raise work_failed(message, location)
    return made


def loss_of(loss: Loss, outputs: Any, targets: Any, weight: Tensor | None = None) -> Tensor:
    """Return the loss of a batch, a tensor of shape ().

    Args:
        loss: a loss of PyTorch is called with the main tensor of structured outputs (see
            ``structures.main_output``), any other function with the outputs as they are.
        outputs: of the model.
        targets: of the batch.
        weight: of each class, float32 of shape (classes,); passed to the loss as ``weight``.

    Raises:
        WorkFailed: the loss returns something other than one value.
    """
    if _is_torchs(loss) and not isinstance(outputs, Tensor):
        named = structures.main_output(outputs)
        if named is None:
            message = (
                f"the model's outputs are {structures.describe(outputs)}, which this loss cannot take: pass"
                " TorchTask a `loss` that is a function of these outputs and the targets"
            )
            raise work_failed(message)
        outputs = named
    both = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
    if both and outputs.is_floating_point() and targets.is_floating_point():
        # Python floats are collated to float64, with which a float32 model cannot be trained.
        targets = targets.to(outputs.dtype)
    found = loss(outputs, targets) if weight is None else loss(outputs, targets, weight=weight)
    if not isinstance(found, Tensor) or found.numel() != 1:
        kind = f"{found.numel()} values" if isinstance(found, Tensor) else structures.describe(found)
        message = f"the loss returns {kind}: it must return one, the mean over the batch (reduction='mean')"
        raise work_failed(message, loss)
    return found if found.ndim == 0 else found.reshape(())


def balanced_weights(loss: Loss, targets: Any, classes: int) -> Tensor:
    """Return the weight n / (k n_c) of each class c, float32 of shape (classes,).

    n is the number of examples, n_c those of class c, and k the number of classes with examples. A class
    without examples gets weight 1. King and Zeng, "Logistic regression in rare events data", Political
    Analysis 9(2), 2001, as in scikit-learn.

    Args:
        loss: must accept an argument ``weight``.
        targets: classes, integers of shape (n,).
        classes: number of classes.

    Raises:
        WorkFailed: the targets are not classes below ``classes``, or the loss does not accept ``weight``.
    """
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.ndim != 1:
        message = f"class_weights is 'balanced', but the targets are not classes: {_kind(targets)}"
        raise WorkFailed(message)
    if "weight" not in inspect.signature(loss).parameters:
        message = (
            "class_weights is 'balanced', but the task's loss takes no argument `weight` as torch's"
            " cross_entropy and nll_loss do"
        )
        raise WorkFailed(message)
    if int(targets.min()) < 0 or int(targets.max()) >= classes:
        message = (
            f"the targets are classes from {int(targets.min())} to {int(targets.max())}; the model has"
            f" classes 0 to {classes - 1}"
        )
        raise WorkFailed(message)
    counts = torch.bincount(targets, minlength=classes).float()
    weights = len(targets) / (int((counts > 0).sum()) * counts)
    return torch.where(counts > 0, weights, torch.ones_like(weights))


class Measures:
    """Accumulates the metrics of an evaluation batch by batch; all are means over examples.

    ``loss`` is always measured; ``accuracy`` if the targets are classes, or binary with a binary cross
    entropy; ``rmse`` and ``mae``, in the unit of the targets, if targets are floats of the outputs' shape.

    Args:
        loss: of a batch.
        compute: returns additional metrics, given the outputs and targets of all examples; None: no others.
    """

    def __init__(self, loss: Loss, compute: Callable[[Any, Any], Any] | None = None) -> None:
        self._loss = loss
        self._compute = compute
        self._kept: list[tuple[Any, Any]] = []
        self._sums: dict[str, float] = {}
        self.examples = 0

    def add(self, outputs: Any, targets: Any, inputs: Any = None) -> None:
        """Add a batch; ``inputs`` are used to count the examples if the targets are not tensors."""
        examples = structures.count(inputs, targets)
        found = {"loss": float(loss_of(self._loss, outputs, targets)), **self._compare(outputs, targets)}
        for name, value in found.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * examples
        self.examples += examples
        if self._compute is not None:
            self._kept.append((structures.detached(outputs), structures.detached(targets)))

    def means(self) -> dict[str, Any]:
        """Return the metrics by name; empty without examples."""
        means: dict[str, Any] = {name: total / self.examples for name, total in self._sums.items()}
        if "squares" in means:
            means["rmse"] = means.pop("squares") ** 0.5
        if self._compute is not None and self._kept:
            outputs, targets = (structures.joined(list(part)) for part in zip(*self._kept, strict=True))
            means.update(self._compute(outputs, targets))
        return means

    def _compare(self, outputs: Any, targets: Any) -> dict[str, float]:
        outputs = structures.main_output(outputs)
        if outputs is None or not isinstance(targets, Tensor):
            return {}
        if not targets.is_floating_point():
            if outputs.ndim != targets.ndim + 1:
                return {}
            return {"accuracy": float((outputs.argmax(dim=1) == targets).double().mean())}
        if outputs.shape != targets.shape:
            return {}
        if (boundary := _boundary(self._loss)) is not None:
            return {"accuracy": float(((outputs > boundary) == (targets > 0.5)).double().mean())}  # noqa: PLR2004 - 0 or 1
        errors = (outputs - targets).double()
        return {"squares": float(errors.square().mean()), "mae": float(errors.abs().mean())}


def _boundary(loss: Loss) -> float | None:
    """Return the output above which a binary cross entropy predicts 1; None for other losses."""
    if loss in _PROBABILITIES or isinstance(loss, nn.BCELoss):
        return 0.5
    return 0.0 if loss in _LOGITS or isinstance(loss, nn.BCEWithLogitsLoss) else None


def _is_torchs(loss: Loss) -> bool:
    module = type(loss).__module__ if isinstance(loss, nn.Module) else getattr(loss, "__module__", "")
    return str(module).partition(".")[0] == "torch"


def _kind(targets: Any) -> str:
    if not isinstance(targets, Tensor):
        return structures.describe(targets)
    return f"{str(targets.dtype).removeprefix('torch.')} of shape {tuple(targets.shape)}"

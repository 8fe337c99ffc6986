"""The loss of a batch, and what an evaluation measures."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from components.runtime.component_errors import WorkFailed
from components.trainer.training import structures
from components.trainer.training.places import refused

Loss = Callable[..., Tensor]
# Given as classes these become the functions, which know class weights and yes and no.
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

    Raises:
        WorkFailed: there are neither.
    """
    own = structures.own_loss(outputs)
    if own is not None and weight is None:
        return own
    logits = structures.main_output(outputs)
    if logits is None or not isinstance(targets, Tensor):
        what = (
            f"outputs {structures.describe(outputs)}" if logits is None else "no targets that are one tensor"
        )
        message = (
            f"the model gives no loss of its own, and there are {what}: give TorchTask a `loss`, a function"
            " of the outputs and the targets"
        )
        raise refused(message)
    return nn.functional.cross_entropy(logits, targets, weight=weight)


def as_loss(loss: Any, place: str = "") -> Loss:
    """Return a loss as a function: it may be given as an object, or as a class such as MSELoss.

    Raises:
        WorkFailed: it is none, or its class takes arguments.
    """
    if not callable(loss):
        message = f"the loss is {loss!r}: it has to be a function of outputs and targets"
        raise refused(message, place)
    if not isinstance(loss, type):
        found: Loss = loss
        return found
    if loss in _FUNCTIONS:
        return _FUNCTIONS[loss]
    try:
        made: Loss = loss()
    except TypeError as error:
        message = f"the loss is the class {loss.__name__}, which needs arguments: give an object ({error})"
        raise refused(message, place) from error
    if not callable(made):
        message = f"the loss is the class {loss.__name__}, whose objects cannot be called: give a function"
        raise refused(message, place)
    return made


def loss_of(loss: Loss, outputs: Any, targets: Any, weight: Tensor | None = None) -> Tensor:
    """Return the loss of a batch; ``weight`` is one number per class, handed to the loss by that name.

    A loss of PyTorch's gets the tensor of structured outputs that has a usual name; any other gets the
    outputs as they are.

    Raises:
        WorkFailed: the loss is not one number.
    """
    if _is_torchs(loss) and not isinstance(outputs, Tensor):
        named = structures.main_output(outputs)
        if named is None:
            message = (
                f"the model's outputs are {structures.describe(outputs)}, which this loss cannot take: give"
                " TorchTask a `loss` that is a function of them and the targets"
            )
            raise refused(message)
        outputs = named
    both = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
    if both and outputs.is_floating_point() and targets.is_floating_point():
        # Numbers of Python become float64 in a batch, which the gradients of a float32 model do not take.
        targets = targets.to(outputs.dtype)
    found = loss(outputs, targets) if weight is None else loss(outputs, targets, weight=weight)
    if not isinstance(found, Tensor) or found.numel() != 1:
        kind = f"{found.numel()} values" if isinstance(found, Tensor) else structures.describe(found)
        message = f"the loss returns {kind}: it has to return one, the mean over the batch (reduction='mean')"
        raise refused(message, loss)
    return found if found.ndim == 0 else found.reshape(())


def balanced_weights(loss: Loss, targets: Any, classes: int) -> Tensor:
    """Return a weight per class, n / (k n_c): n examples, n_c of class c, k classes that have examples.

    King and Zeng, "Logistic regression in rare events data", Political Analysis 9 (2001), as in
    scikit-learn. A class without examples gets weight 1.

    Raises:
        WorkFailed: the targets are no classes, or the loss takes no ``weight``.
    """
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.ndim != 1:
        message = f"class_weights is 'balanced', but the targets are no classes: {_kind(targets)}"
        raise WorkFailed(message)
    if "weight" not in inspect.signature(loss).parameters:
        message = (
            "class_weights is 'balanced', but the task's loss takes no argument `weight`, as torch's"
            " cross_entropy and nll_loss do"
        )
        raise WorkFailed(message)
    if int(targets.min()) < 0 or int(targets.max()) >= classes:
        message = (
            f"the targets are classes from {int(targets.min())} to {int(targets.max())}; the model knows"
            f" 0 to {classes - 1}"
        )
        raise WorkFailed(message)
    counts = torch.bincount(targets, minlength=classes).float()
    weights = len(targets) / (int((counts > 0).sum()) * counts)
    return torch.where(counts > 0, weights, torch.ones_like(weights))


class Measures:
    """Sums up an evaluation batch by batch; all measures are means over examples.

    ``loss`` always; ``accuracy`` where the targets are classes, or yes and no by binary cross entropy;
    ``rmse`` and ``mae``, in the targets' own unit, where targets are numbers of the outputs' shape.

    Args:
        loss: of a batch.
        compute: further metrics, of the outputs and targets of all examples; None: there are none.
    """

    def __init__(self, loss: Loss, compute: Callable[[Any, Any], Any] | None = None) -> None:
        self._loss = loss
        self._compute = compute
        self._kept: list[tuple[Any, Any]] = []
        self._sums: dict[str, float] = {}
        self.examples = 0

    def add(self, outputs: Any, targets: Any, inputs: Any = None) -> None:
        """Add a batch; its ``inputs`` count the examples if the targets do not."""
        examples = structures.count(inputs, targets)
        found = {"loss": float(loss_of(self._loss, outputs, targets)), **self._compare(outputs, targets)}
        for name, value in found.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * examples
        self.examples += examples
        if self._compute is not None:
            self._kept.append((structures.detached(outputs), structures.detached(targets)))

    def means(self) -> dict[str, Any]:
        """Return the measures by name; none if there were no examples."""
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
            return {"accuracy": float(((outputs > boundary) == (targets > 0.5)).double().mean())}  # noqa: PLR2004
        errors = (outputs - targets).double()
        return {"squares": float(errors.square().mean()), "mae": float(errors.abs().mean())}


def _boundary(loss: Loss) -> float | None:
    """Return from which output on a binary cross entropy means yes; None for another loss."""
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

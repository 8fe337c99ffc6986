"""The loss of a batch, and what an evaluation measures."""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from components.trainer.errors import WorkFailed

Loss = Callable[..., Tensor]
_YES_OR_NO: tuple[Loss, ...] = (
    nn.functional.binary_cross_entropy,
    nn.functional.binary_cross_entropy_with_logits,
)


def loss_of(loss: Loss, outputs: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the loss of a batch; ``weight`` is one number per class, handed to the loss by that name."""
    if outputs.is_floating_point() and targets.is_floating_point():
        # Numbers of Python become float64 in a batch, which the gradients of a float32 model do not take.
        targets = targets.to(outputs.dtype)
    return loss(outputs, targets) if weight is None else loss(outputs, targets, weight=weight)


def balanced_weights(loss: Loss, targets: Tensor, classes: int) -> Tensor:
    """Return a weight per class, n / (k n_c): n examples, n_c of class c, k classes that have examples.

    King and Zeng, "Logistic regression in rare events data", Political Analysis 9 (2001), as in
    scikit-learn. A class without examples gets weight 1.

    Raises:
        WorkFailed: the targets are no classes, or the loss takes no ``weight``.
    """
    if targets.is_floating_point() or targets.ndim != 1:
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
    """

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self._sums: dict[str, float] = {}
        self.examples = 0

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        found = {"loss": float(loss_of(self._loss, outputs, targets)), **self._compare(outputs, targets)}
        for name, value in found.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * len(targets)
        self.examples += len(targets)

    def means(self) -> dict[str, float]:
        """Return the measures by name; none if there were no examples."""
        means = {name: total / self.examples for name, total in self._sums.items()}
        if "squares" in means:
            means["rmse"] = means.pop("squares") ** 0.5
        return means

    def _compare(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        if not targets.is_floating_point():
            if outputs.ndim != targets.ndim + 1:
                return {}
            return {"accuracy": float((outputs.argmax(dim=1) == targets).double().mean())}
        if outputs.shape != targets.shape:
            return {}
        if self._loss in _YES_OR_NO:
            boundary = 0.5 if self._loss is nn.functional.binary_cross_entropy else 0.0
            return {"accuracy": float(((outputs > boundary) == (targets > 0.5)).double().mean())}  # noqa: PLR2004
        errors = (outputs - targets).double()
        return {"squares": float(errors.square().mean()), "mae": float(errors.abs().mean())}


def _kind(targets: Tensor) -> str:
    return f"{str(targets.dtype).removeprefix('torch.')} of shape {tuple(targets.shape)}"

"""One epoch of training: forward and backward passes, corrections of the gradients, and early stopping."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from components.trainer.tasks.task import Stop
from components.trainer.training import structures
from components.trainer.training.batches import Batches
from components.trainer.training.hooks import Scheduler
from components.trainer.training.losses import Loss, loss_of
from components.trainer.training.sgd import Optimizer
from components.trainer.training.source_location import work_failed


@dataclass(frozen=True)
class Epoch:
    """One pass over the examples.

    Attributes:
        loss: mean over the examples; NaN if there were none.
        examples: number of examples seen.
        stopped: the pass was stopped before its end.
    """

    loss: float
    examples: int
    stopped: bool


class Fitting:
    """Trains a model epoch by epoch, starting from its current weights.

    With ``proximal`` above 0, each loss has the additional term mu/2 ||w - w_global||^2, where w_global are
    the parameters at the start of the round: FedProx, Li et al., "Federated Optimization in Heterogeneous
    Networks", MLSys 2020 (https://arxiv.org/abs/1812.06127), equation 2. It keeps devices with many steps or
    unusual data close to the global model. The exact gradient of the term is added to the gradients; the
    reported loss does not include it.

    Args:
        model: the model; each epoch switches it to training mode.
        loss: of a batch.
        optimizer: updates the model's parameters.
        proximal: mu.
        class_weights: weights of the classes for the loss, float32 of shape (classes,); None: equal weights.
        autocast: dtype of mixed precision; None: no mixed precision.
        corrections: pairs of a parameter and a tensor of its shape that is added to its gradient in each
            step: SCAFFOLD's c - c_i, see fedgrass/federation/aggregation/scaffold.py.
        max_grad_norm: largest norm of the gradient over all parameters; longer gradients are scaled down
            (Pascanu et al., "On the difficulty of training recurrent neural networks", ICML 2013). 0: never.
        scheduler: called after each step.
    """

    def __init__(  # noqa: PLR0913 - the parts of training, each optional
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: Optimizer,
        *,
        proximal: float = 0.0,
        class_weights: Tensor | None = None,
        autocast: torch.dtype | None = None,
        corrections: Sequence[tuple[Parameter, Tensor]] = (),
        max_grad_norm: float = 0.0,
        scheduler: Scheduler | None = None,
    ) -> None:
        self._model = model
        self._loss = loss
        self._optimizer = optimizer
        self._proximal = proximal
        self._class_weights = class_weights
        self._autocast = autocast
        self._corrections = corrections
        self._max_grad_norm = max_grad_norm
        self._scheduler = scheduler
        self.steps = 0  # taken so far
        kept = model.parameters() if proximal else ()
        self._anchor = [parameter.detach().clone() for parameter in kept]

    def epoch(self, batches: Batches, stop: Stop) -> Epoch:
        """Train on each batch once, until ``stop`` returns True.

        Raises:
            WorkFailed: the loss does not depend on a trained parameter, or is not a single value.
        """
        self._model.train()
        total, count, stopped = 0.0, 0, False
        for inputs, targets in batches:
            if stop():
                stopped = True
                break
            self._model.zero_grad()
            loss = loss_of(self._loss, self._outputs(inputs), targets, self._class_weights)
            if not loss.requires_grad:
                message = (
                    "the loss does not depend on the model's trained parameters: was it computed with"
                    " detach(), item() or argmax(), or under torch.no_grad()?"
                )
                raise work_failed(message, self._loss, self._model)
            loss.backward()  # type: ignore[no-untyped-call] # torch does not type it
            self._add_proximal_gradient()
            self._add_corrections()
            if self._max_grad_norm:
                nn.utils.clip_grad_norm_(self._model.parameters(), self._max_grad_norm)
            self._optimizer.step()
            if self._scheduler is not None:
                self._scheduler.step()
            self.steps += 1
            examples = structures.count(inputs, targets)
            total += loss.item() * examples
            count += examples
        return Epoch(total / count if count else float("nan"), count, stopped)

    def _outputs(self, inputs: Any) -> Any:
        if self._autocast is None:
            return structures.call(self._model, inputs)
        device = next(self._model.parameters()).device
        with torch.autocast(device.type, dtype=self._autocast):
            outputs = structures.call(self._model, inputs)
        # The loss sums over many examples, for which the 8 bits of bfloat16 are not precise enough.
        return structures.to_float(outputs)

    @torch.no_grad()
    def _add_proximal_gradient(self) -> None:
        """Add the gradient of the proximal term, mu (w - w_global)."""
        for parameter, anchor in zip(self._model.parameters(), self._anchor, strict=False):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - anchor, alpha=self._proximal)

    @torch.no_grad()
    def _add_corrections(self) -> None:
        for parameter, correction in self._corrections:
            if parameter.grad is None:  # the parameter did not affect this batch: its gradient is zero
                parameter.grad = correction.clone()
            else:
                parameter.grad.add_(correction)


class Patience:
    """Early stopping: detects that the held-out loss has stopped improving, and keeps the best state.

    Prechelt, "Early Stopping - But When?", in Neural Networks: Tricks of the Trade, 1998.

    Args:
        epochs: number of epochs without improvement after which to stop.
    """

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._best = float("inf")
        self._since = 0
        self._state: dict[str, Tensor] = {}

    def exhausted(self, loss: float, model: nn.Module) -> bool:
        """Record the loss of an epoch; return whether to stop."""
        if loss < self._best:
            self._best, self._since = loss, 0
            self._state = copy.deepcopy(model.state_dict())
        else:
            self._since += 1
        return self._since >= self._epochs

    def restore(self, model: nn.Module) -> None:
        """Restore the best recorded state, if there is one."""
        if self._state:
            model.load_state_dict(self._state)

"""The passes over a device's examples in one round, and the hooks by which a user's task overrides them."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from components.trainer.tasks.task import Stop
from components.trainer.training import structures
from components.trainer.training.batches import Batches
from components.trainer.training.losses import Loss, loss_of
from components.trainer.training.places import refused
from components.trainer.training.sgd import Optimizer, Sgd, TrainingSettings


class Scheduler(Protocol):
    """What changes the learning rate after each step: any scheduler of torch's, or the user's."""

    def step(self) -> object:
        """Set the learning rate of the next step."""


@dataclass(frozen=True)
class Epoch:
    """One pass: the mean loss over ``examples`` examples, and whether it was stopped on the way."""

    loss: float
    examples: int
    stopped: bool


class Fitting:
    """Trains a model as it stands, epoch by epoch.

    With ``proximal`` above 0 each loss has the term mu/2 ||w - w_global||^2, w_global being the parameters
    with which the round began: FedProx, Li et al., "Federated Optimization in Heterogeneous Networks",
    MLSys 2020 (https://arxiv.org/abs/1812.06127), equation 2. It keeps devices with much work or odd data
    near the global model. The term is put into the gradients, exactly; the loss that is told is without it.

    Args:
        model: in the mode of its own choice; each epoch puts it into training mode.
        loss: of a batch.
        optimizer: moves the model's parameters.
        proximal: mu.
        class_weights: one weight per class for the loss, or none.
        autocast: the type of mixed precision, or none.
        corrections: trained parameters, each with what is added to its gradient in every step: SCAFFOLD, see
            fedgrass/federation/aggregation/scaffold.py.
        max_grad_norm: the longest gradient, over all parameters; a longer one is scaled down. 0: no limit.
        scheduler: called after each step.
    """

    def __init__(  # noqa: PLR0913 - each is a part of the training that can be chosen by itself
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
        self.steps = 0  # that were taken so far
        kept = model.parameters() if proximal else ()
        self._anchor = [parameter.detach().clone() for parameter in kept]

    def epoch(self, batches: Batches, stop: Stop) -> Epoch:
        """Train on each batch once, until ``stop`` says so."""
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
                    "the loss does not depend on the model's trained parameters: was it computed by detach(),"
                    " item() or argmax(), or under torch.no_grad()?"
                )
                raise refused(message, self._loss, self._model)
            loss.backward()  # type: ignore[no-untyped-call] # torch gives it no types
            self._pull_back()
            self._correct()
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
        # The loss is a sum over many examples: bfloat16's 8 bits are too few for it.
        return structures.to_float(outputs)

    @torch.no_grad()
    def _pull_back(self) -> None:
        """Add the gradient of the proximal term, mu (w - w_global)."""
        for parameter, begun in zip(self._model.parameters(), self._anchor, strict=False):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - begun, alpha=self._proximal)

    @torch.no_grad()
    def _correct(self) -> None:
        for parameter, added in self._corrections:
            if parameter.grad is None:  # no part in this batch's loss is a gradient of zero
                parameter.grad = added.clone()
            else:
                parameter.grad.add_(added)


class Patience:
    """Ends a training whose loss on held-out examples has not become smaller for some epochs.

    Prechelt, "Early Stopping - But When?", Neural Networks: Tricks of the Trade (1998). Keeps the best state.
    """

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._best = float("inf")
        self._since = 0
        self._state: dict[str, Tensor] = {}

    def exhausted(self, loss: float, model: nn.Module) -> bool:
        """Note an epoch's loss; whether it is time to end."""
        if loss < self._best:
            self._best, self._since = loss, 0
            self._state = copy.deepcopy(model.state_dict())
        else:
            self._since += 1
        return self._since >= self._epochs

    def restore(self, model: nn.Module) -> None:
        """Set the model to the best state that was seen, if there was any."""
        if self._state:
            model.load_state_dict(self._state)


class Hooks:
    """The methods of ``TorchTask`` that choose a part of the training; each has a default."""

    def make_optimizer(self, parameters: list[Parameter], settings: TrainingSettings) -> Optimizer:
        """Return what moves the parameters; called for each round. Override it for another optimizer.

        As in ``return torch.optim.AdamW(parameters, lr=settings.learning_rate)``.
        """
        return Sgd(parameters, settings)

    def make_scheduler(self, optimizer: Any, settings: TrainingSettings, steps: int) -> Scheduler | None:
        """Return what changes the learning rate within a round, called after each of its ``steps``.

        As in ``return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)``. From round to
        round the run's ``training_by_round`` changes it.
        """
        del optimizer, settings, steps  # the learning rate stays as it is
        return None

    def compute_metrics(self, outputs: Any, targets: Any) -> Mapping[str, float]:
        """Return further metrics of an evaluation, such as F1 or AUC, of the outputs for all its examples."""
        del outputs, targets  # no further metrics
        return {}


def module_factory(make_model: Any, place: str) -> Callable[[], nn.Module]:
    """Return what makes the module: a module itself is copied, with its weights."""
    if isinstance(make_model, nn.Module):
        return lambda: copy.deepcopy(make_model)
    if not callable(make_model):
        message = f"make_model is {structures.describe(make_model)}: it has to be a function, or an nn.Module"
        raise refused(message, place)

    def make() -> nn.Module:
        made: object = make_model()
        if not isinstance(made, nn.Module):
            message = f"make_model returns {structures.describe(made)}: it has to return an nn.Module"
            raise refused(message, make_model, place)
        return made

    return make

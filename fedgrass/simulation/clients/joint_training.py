"""Trains several clients at a time, by torch.func: their weights are stacked, and vmap maps over them.

Each client takes the steps that components/trainer/training/local_training.py would take for it: the same
batches in the same order, the same optimizer, and the same additions to the gradients. Without dropout, the
results are equal up to rounding; with it, the clients draw other masks than they would one by one.

Clients with different numbers of examples have batches of different sizes at their end. Each step takes the
clients whose next batches have the same shape.
"""

import copy
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from components.runtime.component_errors import WorkFailed
from components.trainer.tasks.task import Fit
from components.trainer.training import TorchTask, TrainingSettings, batches, structures
from components.trainer.training.arrays import canonical, load_arrays, named_as, state_arrays, trained_arrays
from components.trainer.training.batches import Samples
from components.trainer.training.losses import Loss, loss_of
from components.trainer.training.sgd import corrections_of, plain_steps
from components.trainer.training.torch_task import TrainingParts
from fedgrass.federation.weights import Arrays
from fedgrass.simulation.clients.joint_layers import quicken
from fedgrass.simulation.clients.joint_limits import NotTogether

_CLIP_EPSILON = 1e-6  # of torch.nn.utils.clip_grad_norm_


@dataclass(frozen=True)
class Client:
    """A training to be done together with others.

    Attributes:
        task: of the client.
        given: the weights from which it starts.
        settings: of its training, with its seed.
        correction: of its gradients, for SCAFFOLD; None for other aggregations.
    """

    task: TorchTask
    given: Arrays
    settings: TrainingSettings
    correction: Arrays | None


@dataclass
class _Progress:
    """Where a client is in its training."""

    batches: Iterator[tuple[int, Any, Any]]
    following: tuple[int, Any, Any] | None = None  # batch with the number of its epoch
    shape: Hashable = None
    steps: int = 0
    epoch: int = 0
    loss: float = 0.0  # sum over the examples of the epoch
    seen: int = 0  # in the epoch

    def advance(self) -> None:
        """Read the next batch."""
        self.following = next(self.batches, None)
        self.shape = _shape(self.following[1:]) if self.following else None

    def note(self, loss: float) -> None:
        """Add the loss of the batch that has been trained on."""
        assert self.following is not None  # noqa: S101
        epoch, inputs, targets = self.following
        if epoch != self.epoch:
            self.epoch, self.loss, self.seen = epoch, 0.0, 0
        examples = structures.count(inputs, targets)
        self.loss += loss * examples
        self.seen += examples
        self.steps += 1


class _LossOf(nn.Module):
    """A model with its loss as one module, whose parameters functional_call replaces."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self._loss = [loss]  # in a list: the parameters of a loss are not trained

    def forward(self, inputs: Any, targets: Any, weight: Tensor | None) -> Tensor:
        return loss_of(self._loss[0], structures.call(self.model, inputs), targets, weight)


def train_together(clients: Sequence[Client]) -> list[Fit | None]:
    """Train clients of one ``joint_limits.likeness`` whose settings are equal except for the seed.

    Returns:
        The fit of each client, in order. None if its weights are not finite: trained by itself, it fails with
        the reason that a device has.

    Raises:
        NotTogether: PyTorch cannot map over the clients; the text is the reason.
    """
    training = _JointTraining(clients)
    try:
        training.run()
    except (RuntimeError, TypeError, ValueError, NotImplementedError, WorkFailed) as error:
        # Of the user's model under vmap. If it is a real mistake, each client fails with it by itself.
        reason = " ".join(str(error).split("\n")[0].split())
        raise NotTogether(reason) from error
    return training.fits()


class _JointTraining:
    def __init__(self, clients: Sequence[Client]) -> None:
        self._clients = clients
        self._settings = clients[0].settings
        self._parts = clients[0].task.training_parts()
        self._examples = [client.task.take_examples() for client in clients]
        self._model = _copied(self._parts.model)
        quicken(self._model)
        self._weights, self._states = self._stacked_weights()
        self._names = [name for name, value in self._model.named_parameters() if value.requires_grad]
        self._anchor = {name: self._weights[name].clone() for name in self._names}
        self._momenta = {name: torch.zeros_like(self._weights[name]) for name in self._names}
        self._primary = self._primary_names()
        self._corrections = self._stacked_corrections()
        self._class_weights = self._stacked_class_weights()
        self._loss = _LossOf(self._model, self._parts.loss)
        self._progress = [
            _Progress(_batches(self._parts, examples, client.settings))
            for client, examples in zip(clients, self._examples, strict=True)
        ]

    def run(self) -> None:
        """Train all clients to their end."""
        self._model.train()
        buffers = {name: value.clone() for name, value in self._model.named_buffers()}
        torch.default_generator.manual_seed(self._settings.seed or 0)  # for dropout
        for progress in self._progress:
            progress.advance()
        while waiting := Counter(one.shape for one in self._progress if one.following):
            shape = waiting.most_common(1)[0][0]
            self._step(
                [place for place, one in enumerate(self._progress) if one.following and one.shape == shape]
            )
        for name, value in self._model.named_buffers():
            if not torch.equal(value, buffers[name]):
                message = f"training changes the model's buffer {name!r}"
                raise NotTogether(message)

    def _step(self, places: Sequence[int]) -> None:
        """Take one step of some clients."""
        moving = [self._progress[place] for place in places]
        inputs, targets = (
            _stacked([one.following[part] for one in moving if one.following]) for part in (1, 2)
        )
        whole = len(places) == len(self._clients)
        at = slice(None) if whole else torch.tensor(places)
        weights = {name: self._weights[name][at].detach().requires_grad_() for name in self._names}
        others = {name: value[at] for name, value in self._weights.items() if name not in weights}
        weight = None if self._class_weights is None else self._class_weights[at]
        losses = vmap(
            self._loss_of_one, in_dims=(0, 0, 0, 0, None if weight is None else 0), randomness="different"
        )(weights, others, inputs, targets, weight)
        if not losses.requires_grad:
            message = "the loss does not depend on the model's trained parameters"
            raise NotTogether(message)
        found = torch.autograd.grad(losses.sum(), list(weights.values()), allow_unused=True)
        gradients = {
            name: torch.zeros_like(weights[name]) if gradient is None else gradient
            for name, gradient in zip(weights, found, strict=True)
        }
        self._apply(at, whole, {name: value.detach() for name, value in weights.items()}, gradients)
        for one, loss in zip(moving, losses.tolist(), strict=True):
            one.note(loss)
            one.advance()

    def _loss_of_one(
        self, weights: dict[str, Tensor], others: dict[str, Tensor], inputs: Any, targets: Any, weight: Any
    ) -> Tensor:
        named = {f"model.{name}": value for part in (weights, others) for name, value in part.items()}
        loss: Tensor = functional_call(self._loss, named, (inputs, targets, weight))
        return loss

    @torch.no_grad()
    def _apply(
        self,
        at: Any,
        whole: bool,  # noqa: FBT001 - whether ``at`` has all clients
        weights: Mapping[str, Tensor],
        gradients: dict[str, Tensor],
    ) -> None:
        """Change the weights of some clients by their gradients, as fitting.py and sgd.py do."""
        chosen = self._settings
        for name, gradient in gradients.items():
            if chosen.proximal:
                gradient.add_(weights[name] - self._anchor[name][at], alpha=chosen.proximal)
            if name in self._corrections:
                gradient.add_(self._corrections[name][at])
        if chosen.max_grad_norm:
            squares = [gradient.flatten(1).square().sum(1) for gradient in gradients.values()]
            norms = torch.stack(squares).sum(0).sqrt()
            factors = (chosen.max_grad_norm / (norms + _CLIP_EPSILON)).clamp(max=1.0)
            for gradient in gradients.values():
                gradient.mul_(factors.reshape(-1, *[1] * (gradient.ndim - 1)))
        for name, gradient in gradients.items():
            step = gradient
            if chosen.momentum:
                step = self._momenta[name][at].mul_(chosen.momentum).add_(gradient)
                if not whole:
                    self._momenta[name][at] = step
            if whole:
                self._weights[name].add_(step, alpha=-chosen.learning_rate)
            else:
                self._weights[name][at] = weights[name].add(step, alpha=-chosen.learning_rate)

    def fits(self) -> list[Fit | None]:
        """Return what each client has made; None if it is not finite."""
        arrays = {name: value.numpy() for name, value in self._weights.items()}
        finite = np.ones(len(self._clients), bool)
        for array in arrays.values():
            finite &= np.isfinite(array.reshape(len(array), -1)).all(axis=1)
        trained = frozenset(trained_arrays(self._model))
        return [
            self._fit(place, arrays, trained) if finite[place] else None
            for place in range(len(self._clients))
        ]

    def _fit(self, place: int, arrays: Mapping[str, Any], trained: frozenset[str]) -> Fit:
        client, progress, model = self._clients[place], self._progress[place], self._model
        state = self._states[place]
        primary = self._primary
        own = {
            name: arrays[primary[name]][place].copy() if name in primary else state[name] for name in state
        }
        corrected = client.correction is not None
        return Fit(
            named_as(client.given, model, own),
            batches.length(self._examples[place]),
            {"train_loss": progress.loss / progress.seen},
            steps=plain_steps(model, progress.steps, client.settings) if corrected else None,
            trained=frozenset(named_as(client.given, model, dict.fromkeys(trained))),
        )

    def _stacked_weights(self) -> tuple[dict[str, Tensor], list[Mapping[str, Any]]]:
        """Return all parameters with the clients as the first dimension, and the state of each client."""
        rows: list[dict[str, Tensor]] = []
        states: list[Mapping[str, Any]] = []
        buffers: dict[str, Tensor] = {}
        for place, client in enumerate(self._clients):
            if place and _are_same(client.given, self._clients[place - 1].given):
                rows.append(rows[-1])
                states.append(states[-1])
                continue
            load_arrays(self._model, client.given)
            rows.append({name: value.detach().clone() for name, value in self._model.named_parameters()})
            states.append(state_arrays(self._model))
            own = {name: value.clone() for name, value in self._model.named_buffers()}
            if different := next(
                (n for n in own if n in buffers and not torch.equal(own[n], buffers[n])), ""
            ):
                message = f"the clients have different values of the model's buffer {different!r}"
                raise NotTogether(message)
            buffers = own
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}, states

    def _stacked_corrections(self) -> dict[str, Tensor]:
        """Return SCAFFOLD's correction of each trained parameter, if there are any."""
        names = {id(parameter): name for name, parameter in self._model.named_parameters()}
        found: dict[str, Tensor] = {}
        for place, client in enumerate(self._clients):
            for parameter, added in corrections_of(self._model, client.correction or {}):
                name = names[id(parameter)]
                if name not in found:
                    found[name] = torch.zeros_like(self._weights[name])
                found[name][place] = added
        return found

    def _stacked_class_weights(self) -> Tensor | None:
        if self._settings.class_weights != "balanced":
            return None
        pairs = zip(self._clients, self._examples, strict=True)
        return torch.stack([client.task.class_weights(examples) for client, examples in pairs])

    def _primary_names(self) -> dict[str, str]:
        """Return the name under which each parameter is trained: a tied one has several."""
        first = {id(parameter): name for name, parameter in self._model.named_parameters()}
        every = self._model.named_parameters(remove_duplicate=False)
        return canonical(self._model, ((name, first[id(parameter)]) for name, parameter in every))


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # of the user's module, which may raise anything
        message = f"the model {type(model).__name__} cannot be copied"
        raise NotTogether(message) from error


def _are_same(some: Arrays, others: Arrays) -> bool:
    """Return whether arrays are views of the same memory, as those of clients of one round are."""
    return some.keys() == others.keys() and all(
        some[name].__array_interface__["data"] == others[name].__array_interface__["data"] for name in some
    )


def _batches(
    parts: TrainingParts, examples: Samples, chosen: TrainingSettings
) -> Iterator[tuple[int, Any, Any]]:
    """Yield the batches of a client with the numbers of their epochs, in the order of a device."""
    generator = torch.Generator().manual_seed(chosen.seed or 0)
    for epoch in range(chosen.epochs):
        order = batches.shuffled(examples, parts.device, chosen.batch_size, generator, parts.loading)
        for inputs, targets in order:
            yield epoch, inputs, targets


def _shape(part: Any) -> Hashable:
    """Return the shapes of the tensors in a structure, and other values as they are."""
    if isinstance(part, Tensor):
        return tuple(part.shape), str(part.dtype)
    if isinstance(part, Mapping):
        return tuple((name, _shape(value)) for name, value in part.items())
    if isinstance(part, tuple | list):
        return type(part), tuple(_shape(value) for value in part)
    if part is None or isinstance(part, bool | int | float | str):
        return part
    message = f"a batch has a {type(part).__name__}, which is no tensor"
    raise NotTogether(message)


def _stacked(parts: list[Any]) -> Any:
    """Return structures of the same shape as one, whose tensors have the clients as the first dimension."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.stack(parts)
    if isinstance(first, Mapping):
        return {name: _stacked([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple | list):
        return type(first)(_stacked(list(column)) for column in zip(*parts, strict=True))
    return first

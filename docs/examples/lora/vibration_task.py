"""A task that trains adapters of a frozen transformer (LoRA): 1.6 % of the model travels.

    python docs/examples/lora/pretrain_base.py                      # once: writes base.safetensors
    fedgrass task check vibration_task:Vibration --path docs/examples/lora
    fedgrass demo --task vibration=vibration_task:Vibration --task-path docs/examples/lora --rounds 10

The base comes with the task's files and never travels. Each adapter is two small ``nn.Linear`` next to a
frozen one: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022
(https://arxiv.org/abs/2106.09685). The cloud averages the two factors of an adapter one by one. The average
of their products would be another matrix, but has no low rank; with this task the difference does not show.

To adapt another model: load it in ``make_model``, name its layers in ``ADAPTED``, read your data.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.data import TensorDataset
from vibration_data import CLASSES, SAMPLES, read_windows

from components.trainer.training import TorchTask, TrainingSettings

WIDTH, BLOCKS, HEADS, PATCH = 96, 3, 4, 16
PATCHES = SAMPLES // PATCH
HEAD = "head."  # prefix of the last layer's arrays, which no base has
ADAPTED = ("query", "value")  # names of the layers that get an adapter
SCALE = 2.0  # of an adapter's output


class Vibration(TorchTask):
    """Recognizes the faults of a machine from its vibration.

    Args:
        rank: of the adapters; 0: the whole model is trained and shared, to compare.
        base: the file of the base model, next to this one; empty: a base with random weights, to compare.
        share: number of this device, and of its machine, from 0.
        shares: of how many devices. A demo sets both; each device has a machine of its own.
        windows: number of windows to train on.
        held_out: number of windows to evaluate on.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the options of the task
        self,
        rank: int = 4,
        base: str = "base.safetensors",
        share: int = 0,
        shares: int = 1,
        windows: int = 70,
        held_out: int = 200,
    ) -> None:
        del shares  # any number of machines can be generated
        file = Path(__file__).parent / base if base else None
        super().__init__(
            lambda: make_model(file, rank),
            training=TensorDataset(*read_windows("plant", windows, seed=100 + share)),
            held_out=TensorDataset(*read_windows("plant", held_out, seed=10_000 + share)),
            defaults=TrainingSettings(epochs=2, learning_rate=0.01 if rank else 0.0005),
            shared="trainable" if rank else (),
        )

    def make_optimizer(
        self, parameters: list[nn.Parameter], settings: TrainingSettings
    ) -> torch.optim.Optimizer:
        """Return AdamW, which adapters need: the gradients of their two factors differ in size."""
        return torch.optim.AdamW(parameters, lr=settings.learning_rate)

    def make_scheduler(self, optimizer: Any, settings: TrainingSettings, steps: int) -> Any:  # noqa: ARG002 - a hook's signature
        """Return cosine annealing within each round: every round ends with small steps."""
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)


def make_model(base: Path | None, rank: int) -> nn.Module:
    """Return the model of a task: the base with a new last layer and, if ``rank`` is not 0, with adapters.

    Only adapters and the last layer get gradients then, so they are the shared arrays of
    ``shared="trainable"``; all others are frozen.
    """
    if base and not base.exists():
        message = f"{base} does not exist: pretrain_base.py writes it"
        raise FileNotFoundError(message)
    model = Transformer(CLASSES)
    last_layer = {name: array for name, array in model.state_dict().items() if name.startswith(HEAD)}
    model.load_state_dict({**(load_file(base) if base else random_base()), **last_layer})
    if rank:
        model.requires_grad_(requires_grad=False)
        model.head.requires_grad_(requires_grad=True)
        for name, layer in list(model.named_modules()):
            parent, _, child = name.rpartition(".")
            if child in ADAPTED and isinstance(layer, nn.Linear):
                setattr(model.get_submodule(parent), child, Adapted(layer, rank))
    return model


def random_base() -> dict[str, Tensor]:
    """Return the state of an untrained base."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # frozen arrays are the same on all devices and in all runs
        state = Transformer(CLASSES).state_dict()
    return {name: array for name, array in state.items() if not name.startswith(HEAD)}


class Adapted(nn.Module):
    """A frozen linear layer with an adapter: base(x) + SCALE * up(down(x)), which at first is base(x)."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return a tensor of shape (..., out_features) for ``inputs`` of shape (..., in_features)."""
        outputs: Tensor = self.base(inputs) + SCALE * self.up(self.down(inputs))
        return outputs


class Block(nn.Module):
    """Self-attention and two linear layers, each after a normalization and around a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_layers = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.layers = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, states: Tensor) -> Tensor:
        """Return a tensor of the shape of ``states``: (batch, PATCHES, WIDTH)."""
        normal = self.before_attention(states)
        query, key, value = (
            layer(normal).view(*states.shape[:2], HEADS, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        attended = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        states = states + self.out(attended)
        outputs: Tensor = states + self.layers(self.before_layers(states))
        return outputs


class Transformer(nn.Module):
    """A transformer over the patches of a window, with a last layer for ``classes`` classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.patches = nn.Linear(PATCH, WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(PATCHES, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, windows: Tensor) -> Tensor:
        """Return logits of shape (batch, classes) for windows of shape (batch, SAMPLES)."""
        states = self.patches(windows.view(-1, PATCHES, PATCH)) + self.places
        for block in self.blocks:
            states = block(states)
        logits: Tensor = self.head(self.norm(states).mean(dim=1))
        return logits

"""Quicker layers of joint trainings: equal to PyTorch's under vmap, with gradients, ties and odd sizes."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from fedgrass.simulation.clients.joint_layers import QuickConv2d, QuickMaxPool2d, quicken

CLIENTS = 3


def results(modules: list[nn.Module], images: Tensor, *, quick: bool) -> list[Tensor]:
    """Return outputs of one model per client, and the gradients of parameters and images."""
    model = copy.deepcopy(modules[0])
    if quick:
        quicken(model)
    weights, _ = stack_module_state(modules)
    images = images.clone().requires_grad_(images.requires_grad)

    def call(own: dict[str, Tensor], batch: Tensor) -> Any:
        return functional_call(model, own, (batch,))

    found = vmap(call)(weights, images) if weights else vmap(model)(images)
    of = [*weights.values(), *([images] if images.requires_grad else [])]
    factors = torch.arange(found.numel(), dtype=found.dtype).reshape(found.shape) / found.numel()
    return [found, *torch.autograd.grad((found * factors).sum(), of)]


@given(
    seed=st.integers(0, 10_000),
    size=st.sampled_from([2, 3]),
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    values=st.integers(1, 4),
)
def test_a_pooling_has_the_maxima_and_gradients_of_pytorch_also_among_ties(
    seed: int, size: int, height: int, width: int, values: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (CLIENTS, 2, 2, height, width)
    images = torch.randint(values, shape, generator=generator).float().requires_grad_()
    model = [nn.MaxPool2d(size)]
    quick, usual = (results(list(model), images, quick=quick) for quick in (True, False))
    for one, other in zip(quick, usual, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("first", [True, False], ids=["first layer", "later layer"])
@pytest.mark.parametrize("options", [{}, {"padding": 1}, {"stride": 2, "padding": (2, 0)}], ids=str)
def test_a_convolution_is_that_of_pytorch_up_to_rounding(
    options: dict[str, Any],
    first: bool,  # noqa: FBT001 - a parameter of the test
    bias: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    torch.manual_seed(0)
    models: list[nn.Module] = [nn.Conv2d(2, 4, (3, 2), bias=bias, **options) for _ in range(CLIENTS)]
    images = torch.randn(CLIENTS, 5, 2, 8, 7, requires_grad=not first)
    quick, usual = (results(models, images, quick=quick) for quick in (True, False))
    for one, other in zip(quick, usual, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_whole_network_keeps_its_gradients_and_the_names_of_its_weights() -> None:
    torch.manual_seed(0)
    models: list[nn.Module] = [
        nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.MaxPool2d(3), nn.Flatten()
        )
        for _ in range(CLIENTS)
    ]
    images = torch.randn(CLIENTS, 5, 1, 20, 20)
    quick, usual = (results(models, images, quick=quick) for quick in (True, False))
    for one, other in zip(quick, usual, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    changed = copy.deepcopy(models[0])
    quicken(changed)
    assert list(changed.state_dict()) == list(models[0].state_dict())


@pytest.mark.parametrize(
    ("module", "is_quick"),
    [
        (nn.MaxPool2d(2), True),
        (nn.MaxPool2d((3, 3), (3, 3)), True),
        (nn.MaxPool2d(4), False),
        (nn.MaxPool2d(3, 2), False),
        (nn.MaxPool2d(2, padding=1), False),
        (nn.MaxPool2d(2, dilation=2), False),
        (nn.MaxPool2d(2, ceil_mode=True), False),
        (nn.MaxPool2d(2, return_indices=True), False),
        (nn.Conv2d(2, 2, 3, padding=1), True),
        (nn.Conv2d(2, 2, 3, groups=2), False),
        (nn.Conv2d(2, 2, 3, dilation=2), False),
        (nn.Conv2d(2, 2, 3, padding="same"), False),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), False),
    ],
    ids=str,
)
def test_only_layers_of_the_plain_kind_are_replaced(
    module: nn.Module,
    is_quick: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    quicken(module)
    assert isinstance(module, QuickMaxPool2d | QuickConv2d) == is_quick


def test_a_kernel_larger_than_the_image_has_the_message_of_pytorch() -> None:
    model = nn.Conv2d(1, 1, 5)
    quicken(model)
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        model(torch.zeros(1, 1, 3, 3))

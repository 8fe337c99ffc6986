"""Layers for clients that are trained together, equal to PyTorch's but quicker under ``torch.func.vmap``.

PyTorch maps a convolution over clients as a grouped one, and a pooling as one over all clients after a copy
into another memory layout. With the small images and batches of devices, both take several times as long as
what is done here: a first convolution is a batched matrix product with the columns of the images (im2col:
Chellapilla et al., "High Performance Convolutional Neural Networks for Document Processing", IWFHR 2006), and
a pooling takes the maximum of strided views, in whatever layout its input has.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

_MOST_COLUMNS = 1 << 18  # numbers in the columns of one client's batch, 1 MB: beyond, PyTorch is as quick
_BLOCK = 8  # channels: oneDNN computes with so many at a time
_WINDOWS = (2, 3)  # sizes of pooling windows
_BATCH_OF_IMAGES = 4  # dimensions: (batch, channels, height, width)


def quicken(model: nn.Module) -> None:
    """Replace in place the layers of a model that have a quicker equal, with their parameters and names."""
    for module in model.modules():
        if type(module) is nn.MaxPool2d and _is_plain_pooling(module):
            module.__class__ = QuickMaxPool2d
        elif type(module) is nn.Conv2d and _is_plain_convolution(module):
            module.__class__ = QuickConv2d


class QuickMaxPool2d(nn.MaxPool2d):
    """``nn.MaxPool2d`` with square windows of 2 or 3 pixels that neither overlap nor are padded."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in PyTorch
        """Return the maxima of the windows of (..., height, width); what remains at the end is cut."""
        size = _pair(self.kernel_size)[0]
        if input.ndim < _BATCH_OF_IMAGES or min(input.shape[-2:]) < size or not input.is_floating_point():
            usual: Tensor = super().forward(input)  # with its message
            return usual
        pooled: Tensor = _Pooling.apply(input, size)[0]  # type: ignore[no-untyped-call]
        return pooled


class QuickConv2d(nn.Conv2d):
    """``nn.Conv2d`` with one group and no dilation, padded by zeros."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in PyTorch
        """Return the convolution of (batch, channels, height, width)."""
        if input.ndim != _BATCH_OF_IMAGES or input.dtype != self.weight.dtype:
            return super().forward(input)  # with its message
        window, stride, (top, left) = _pair(self.kernel_size), _pair(self.stride), _pair(self.padding)
        sizes = [
            (length + 2 * border - width) // step + 1
            for length, border, width, step in zip(input.shape[2:], (top, left), window, stride, strict=True)
        ]
        columns = input.shape[0] * self.weight[0].numel() * math.prod(sizes)
        if min(sizes) < 1 or input.shape[1] != self.in_channels or columns > _MOST_COLUMNS:
            return super().forward(input)
        padded = pad(input, (left, left, top, top)) if top or left else input
        made: Tensor = _Convolution.apply(  # type: ignore[no-untyped-call]
            padded, self.weight, self.bias, stride
        )
        return made


class _Pooling(torch.autograd.Function):
    """Maxima of square windows of (..., height, width), and where earlier numbers were not below later ones.

    The gradient goes to the first maximum of a window, in the order of its rows, as PyTorch's does.
    """

    @staticmethod
    def forward(images: Tensor, size: int) -> tuple[Tensor, ...]:
        height, width = (length // size * size for length in images.shape[-2:])
        found, along = _maxima([images[..., :height, place:width:size] for place in range(size)])
        found, across = _maxima([found[..., place::size, :] for place in range(size)])
        return found, *along, *across

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        images, ctx.size = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(images, *output[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        (images, *earlier), size = ctx.saved_tensors, ctx.size
        along, across = earlier[: size - 1], earlier[size - 1 :]
        spread = torch.empty_like(images)
        height, width = (length // size * size for length in images.shape[-2:])
        spread[..., height:, :] = 0
        spread[..., width:] = 0
        rows = torch.empty_like(along[0], dtype=spread.dtype)
        _share_out(gradients[0], across, [rows[..., place::size, :] for place in range(size)])
        _share_out(rows, along, [spread[..., :height, place:width:size] for place in range(size)])
        return spread, None

    @staticmethod
    def vmap(_info: Any, in_dims: tuple[Any, ...], images: Tensor, size: int) -> tuple[Any, Any]:
        found: tuple[Tensor, ...] = _Pooling.apply(  # type: ignore[no-untyped-call]
            images.movedim(in_dims[0], 0), size
        )
        return found, (0,) * len(found)


class _Convolution(torch.autograd.Function):
    """Convolution of padded images of shape (batch, channels, height, width), for use under vmap only."""

    @staticmethod
    def forward(images: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int]) -> Tensor:
        return torch.conv2d(images, weight, bias, stride)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep nothing: under vmap there is a way back for each of the two ways forth."""

    @staticmethod
    def backward(_ctx: Any, *_gradients: Any) -> Any:
        message = "a layer of a joint training was called outside of it"
        raise NotImplementedError(message)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *parts: Any) -> tuple[Tensor, int]:
        *tensors, stride = parts
        images, weight, bias = (
            _first(part, place, info.batch_size) for part, place in zip(tensors, in_dims, strict=False)
        )
        assert images is not None  # noqa: S101
        if not images.requires_grad:
            by_columns: Tensor = _ByColumns.apply(images, weight, bias, stride)  # type: ignore[no-untyped-call]
            return by_columns, 0
        assert weight is not None  # noqa: S101
        joined = images.transpose(0, 1).flatten(1, 2)
        added = None if bias is None else bias.flatten()
        found: Tensor = _Grouped.apply(  # type: ignore[no-untyped-call]
            joined, weight.flatten(0, 1), added, stride, info.batch_size
        )
        return found.view(len(found), info.batch_size, -1, *found.shape[2:]).transpose(0, 1), 0


class _Grouped(torch.autograd.Function):
    """A grouped convolution, without oneDNN where that has no fast kernel."""

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917 - the arguments of a convolution
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], groups: int
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.chosen = None if bias is None else [len(bias)], stride, groups
        with _onednn(is_used=_suits_onednn(weight, groups)):
            return torch.conv2d(images, weight, bias, stride, groups=groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        images, weight = ctx.saved_tensors
        biases, stride, groups = ctx.chosen
        wanted = [need and (place < 2 or bool(biases)) for place, need in enumerate(ctx.needs_input_grad[:3])]  # noqa: PLR2004 - the bias
        with _onednn(is_used=_suits_onednn(weight, groups)):
            found = torch.ops.aten.convolution_backward(
                gradients[0],
                images,
                weight,
                biases,
                stride,
                (0, 0),
                (1, 1),
                False,  # noqa: FBT003 - transposed
                (0, 0),
                groups,
                wanted,
            )
        return *found, None, None


@contextmanager
def _onednn(*, is_used: bool) -> Iterator[None]:
    """Compute with oneDNN or without."""
    was_used, *_ = torch.backends.mkldnn.set_flags(is_used)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(was_used)  # type: ignore[no-untyped-call]


def _suits_onednn(weight: Tensor, groups: int) -> bool:
    """Return whether the channels of a group fill the blocks of oneDNN's kernels."""
    return len(weight) // groups % _BLOCK == 0 and weight.shape[1] % _BLOCK == 0


class _ByColumns(torch.autograd.Function):
    """Convolutions of images that need no gradient.

    The shapes are (clients, batch, channels, height, width) of the images, (clients, made channels, channels,
    height, width) of the weights and (clients, made channels) of the bias.
    """

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int]
    ) -> Tensor:
        clients, made, _, *window = weight.shape
        views = images.unfold(3, window[0], stride[0]).unfold(4, window[1], stride[1])
        batch, height, width = views.shape[1], views.shape[3], views.shape[4]
        columns = views.permute(0, 2, 5, 6, 1, 3, 4).reshape(clients, -1, batch * height * width)
        rows = weight.reshape(clients, made, -1)
        found = rows @ columns if bias is None else torch.baddbmm(bias[..., None], rows, columns)
        ctx.weight_shape = weight.shape
        ctx.save_for_backward(columns)
        return found.view(clients, made, batch, height, width).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, Tensor | None, Tensor | None, None]:
        (columns,) = ctx.saved_tensors
        flat = gradients[0].transpose(1, 2).flatten(2)
        for_weight = for_bias = None
        if ctx.needs_input_grad[1]:
            for_weight = (flat @ columns.transpose(1, 2)).view(ctx.weight_shape)
        if ctx.needs_input_grad[2]:
            for_bias = flat.sum(2)
        return None, for_weight, for_bias, None


def _maxima(parts: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return the maxima of tensors of one shape, and where the maximum so far was not below the next."""
    largest, earlier = parts[0], []
    for part in parts[1:]:
        earlier.append(largest >= part)
        largest = torch.maximum(largest, part)
    return largest, earlier


def _share_out(gradient: Tensor, earlier: list[Tensor], places: list[Tensor]) -> None:
    """Write the gradient of ``_maxima`` into the places of its parts."""
    rest = gradient
    for number in range(len(places) - 1, 0, -1):
        is_before = earlier[number - 1]
        # If one is infinite, it is not a finite number minus itself: the training has diverged either way.
        before = rest * is_before
        torch.sub(rest, before, out=places[number])
        rest = before
    places[0].copy_(rest)


def _first(part: Tensor | None, place: int | None, clients: int) -> Tensor | None:
    """Return a tensor with the clients as the first dimension."""
    if part is None:
        return None
    return part.expand(clients, *part.shape) if place is None else part.movedim(place, 0)


def _pair(value: Any) -> tuple[int, int]:
    """Return the two numbers of an option, which may be given as one."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _is_plain_pooling(module: nn.MaxPool2d) -> bool:
    window = _pair(module.kernel_size)
    return (
        window[0] == window[1]
        and window[0] in _WINDOWS
        and _pair(module.stride) == window
        and _pair(module.padding) == (0, 0)
        and _pair(module.dilation) == (1, 1)
        and not (module.ceil_mode or module.return_indices)
    )


def _is_plain_convolution(module: nn.Conv2d) -> bool:
    is_padded_by_zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return is_padded_by_zeros and module.groups == 1 and _pair(module.dilation) == (1, 1)

"""Roles in PyTorch models: ready choices, tied weights, wrappers, precisions, frozen parameters."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.runtime.component_errors import WorkFailed
from components.trainer.training import TorchTask
from components.trainer.training.torch_sharing import array_names, sharing_of, tied_arrays
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights.array_sharing import roles_of

INPUTS = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
LABELS = (INPUTS.sum(1) > 0).long()


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def adapted() -> nn.Module:
    model = net()
    for layer in (model[0], model[1]):  # type: ignore[index] # a Sequential
        layer.requires_grad_(requires_grad=False)
    return model


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 4, bias=False)
        self.out = nn.Linear(4, 4, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Any:
        return self.out(self.embed(x))


def task(make: Callable[[], nn.Module] = net, **roles: Any) -> TorchTask:
    return TorchTask(make, (INPUTS, LABELS), (INPUTS, LABELS), **roles)


def by_role(of: TorchTask) -> dict[str, list[str]]:
    found = roles_of(list(of.initial_weights(0)), of.sharing()).of
    return {str(role): [name for name, one in found.items() if one is role] for role in set(found.values())}


NORM = [f"1.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]
FIRST, LAST = ["0.weight", "0.bias"], ["3.weight", "3.bias"]


def test_no_batch_norm_keeps_all_arrays_of_batch_normalizations_private() -> None:
    assert by_role(task(shared="no_batch_norm")) == {"private": NORM, "shared": FIRST + LAST}


def test_body_keeps_the_last_layer_with_parameters_private() -> None:
    assert by_role(task(shared="body")) == {"shared": FIRST + NORM, "private": LAST}
    without = lambda: nn.Sequential(*net(), nn.ReLU(), nn.Dropout())  # type: ignore[misc] # noqa: E731
    assert by_role(task(without, shared="body"))["private"] == LAST


def test_trainable_freezes_what_requires_no_gradient() -> None:
    assert by_role(task(adapted, shared="trainable")) == {"shared": LAST, "frozen": FIRST + NORM}


def test_buffers_go_with_the_trainable_parameters_of_their_module() -> None:
    def make() -> nn.Module:
        model = net()
        model[0].requires_grad_(requires_grad=False)  # type: ignore[index] # a Sequential
        return model

    assert by_role(task(make, shared="trainable")) == {"shared": NORM + LAST, "frozen": FIRST}


def test_a_choice_takes_further_patterns() -> None:
    chosen = by_role(task(shared="no_batch_norm", private="3.*", frozen=["0.bias"]))
    assert chosen == {"shared": ["0.weight"], "private": NORM + LAST, "frozen": ["0.bias"]}


@pytest.mark.parametrize(
    ("make", "roles", "reason"),
    [
        (
            net,
            {"shared": "trainable"},
            "every parameter of the model requires gradients: in make_model, call",
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 2)),
            {"shared": "no_batch_norm"},
            "shared is 'no_batch_norm', but the model has no batch normalization",
        ),
        (lambda: nn.Sequential(nn.Linear(4, 2)), {"shared": "body"}, "the task shares no array"),
        (net, {"shared": ["body", "0.*"]}, "that choice is written shared='body', by itself"),
        (net, {"private": "trainable"}, "that choice is written shared='trainable', by itself"),
        (net, {"shared": [1]}, "shared has 1: it takes patterns of array names"),
        (net, {"shared": "4.*"}, "shared pattern '4.*' matches none of the 9 arrays: the nearest are"),
        (Tied, {"shared": "body"}, "'embed.weight' and 'out.weight' are tied"),
        (Tied, {"private": "out.*"}, "give both one role"),
    ],
)
def test_a_choice_that_does_not_apply_is_refused_with_the_place_in_the_users_file(
    make: Callable[[], nn.Module], roles: dict[str, Any], reason: str
) -> None:
    with pytest.raises(WorkFailed, match=rf"test_torch_sharing.py:\d+: .*{re.escape(reason)}"):
        task(make, **roles)


def test_tied_weights_have_one_role_and_stay_tied() -> None:
    tied = task(Tied)
    assert tied.sharing().tied == (("embed.weight", "out.weight"),)
    with pytest.raises(SettingsError, match="are tied"):
        roles_of(list(tied.initial_weights(0)), tied.sharing(), ["embed.*"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: torch.compile(model, backend="eager"),
        nn.DataParallel,
        lambda model: nn.DataParallel(torch.compile(model, backend="eager")),  # type: ignore[type-var]
    ],
    ids=["compile", "DataParallel", "both"],
)
def test_wrappers_do_not_change_the_names_of_arrays(wrap: Callable[[nn.Module], nn.Module]) -> None:
    wrapped = task(lambda: wrap(net()), shared="body")
    weights = wrapped.initial_weights(0)
    assert list(weights) == array_names(net())
    assert by_role(wrapped)["private"] == LAST
    fit = wrapped.fit(weights, {"epochs": 1, "seed": 1}, lambda _: None, lambda: False)
    assert list(fit.weights) == list(weights)
    assert set(fit.trained or ()) == {*FIRST, *NORM[:2], *LAST}
    plain = task(shared="body").fit(weights, {"epochs": 1, "seed": 1}, lambda _: None, lambda: False)
    for name, array in plain.weights.items():
        np.testing.assert_allclose(np.asarray(array, float), np.asarray(fit.weights[name], float), atol=1e-6)


def test_a_wrapper_inside_the_model_does_not_change_the_names_of_arrays() -> None:
    def make() -> nn.Module:
        model = net()
        model[0] = nn.DataParallel(model[0])  # type: ignore[index,operator] # a Sequential
        return model

    assert list(task(make).initial_weights(0)) == array_names(net())
    assert task(make).gradients(task(make).initial_weights(0)).keys() == {*FIRST, *NORM[:2], *LAST}


def test_a_module_that_is_called_module_keeps_its_name() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Any:
            return self.module(x)

    assert list(task(Wrapper).initial_weights(0)) == ["module.weight", "module.bias"]


def test_models_of_older_versions_keep_the_names_with_prefixes() -> None:
    wrapped = task(lambda: torch.compile(net(), backend="eager"))  # type: ignore[arg-type,return-value]
    old = {f"_orig_mod.{name}": array for name, array in wrapped.initial_weights(0).items()}
    fit = wrapped.fit(old, {"epochs": 1}, lambda _: None, lambda: False)
    assert fit.weights.keys() == old.keys()
    assert fit.trained
    assert fit.trained < old.keys()


def test_frozen_parameters_are_not_trained() -> None:
    frozen = task(frozen="0.*")
    weights = frozen.initial_weights(0)
    fit = frozen.fit(weights, {"epochs": 1, "seed": 1}, lambda _: None, lambda: False)
    assert set(fit.trained or ()) == {*NORM[:2], *LAST}
    for name in FIRST:
        np.testing.assert_array_equal(fit.weights[name], weights[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_and_double_precision_have_roles(dtype: torch.dtype) -> None:
    assert by_role(task(lambda: net().to(dtype), shared="no_batch_norm"))["private"] == NORM


def test_names_with_special_characters_are_matched_as_they_are() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    model.register_parameter("scale[0]", nn.Parameter(torch.ones(1)))
    model.register_parameter("scale0", nn.Parameter(torch.ones(1), requires_grad=False))
    sharing = sharing_of(model, "trainable", (), ())
    found = roles_of(array_names(model), sharing).of
    assert (str(found["scale[0]"]), str(found["scale0"])) == ("shared", "frozen")


def test_arrays_that_do_not_share_memory_are_not_tied() -> None:
    assert tied_arrays(net()) == []
    assert tied_arrays(net().to("meta")) == []


def test_a_view_of_another_array_is_tied_to_it() -> None:
    model = net()
    model.register_buffer("first_row", model[0].weight.detach()[1])  # type: ignore[index]
    assert tied_arrays(model) == [("first_row", "0.weight")] or tied_arrays(model) == [
        ("0.weight", "first_row")
    ]

"""The roles of a PyTorch model's arrays: patterns, ready choices, and arrays that share memory.

trainable       shares what has gradients, as of adapters (LoRA, Hu et al. 2022,
https://arxiv.org/abs/2106.09685): parameters with ``requires_grad``, and the buffers of
modules that own one; everything else is frozen
no_batch_norm   keeps all arrays of batch normalizations private (FedBN, Li et al. 2021,
https://arxiv.org/abs/2102.07623)
body            keeps the arrays of the last layer private (FedPer, Arivazhagan et al. 2019,
https://arxiv.org/abs/1912.00818): of the last module, in the order in which modules are
registered, that owns parameters itself
"""

import re
from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from components.trainer.training.arrays import canonical, canonical_name, wrapper_prefixes
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights.array_sharing import Role, Sharing, roles_of

TRAINABLE, NO_BATCH_NORM, BODY = "trainable", "no_batch_norm", "body"
CHOICES = (TRAINABLE, NO_BATCH_NORM, BODY)
Patterns = str | Sequence[str]  # a pattern or several
_SPECIAL = re.compile(r"([*?[])")


def sharing_of(model: nn.Module, shared: Patterns, private: Patterns, frozen: Patterns) -> Sharing:
    """Return the roles of a model's arrays.

    Args:
        model: the model.
        shared: patterns on names of arrays, or one of ``CHOICES``.
        private: patterns.
        frozen: patterns.

    Raises:
        SettingsError: a choice or a pattern does not apply to the model; the text names it.
    """
    names = array_names(model)
    found = Sharing(
        _patterns("shared", shared),
        _patterns("private", private),
        _patterns("frozen", frozen),
        tuple(tied_arrays(model)),
    )
    if isinstance(shared, str) and shared in CHOICES:
        found = _of_choice(shared, model, found)
    roles_of(names, found)
    return found


def freeze(model: nn.Module, sharing: Sharing) -> None:
    """Leave frozen parameters out of the training: what it made of them would be dropped after each round."""
    roles = roles_of(array_names(model), sharing)
    for name, parameter in canonical(model, model.named_parameters(remove_duplicate=False)).items():
        if roles.of[name] is Role.FROZEN:
            parameter.requires_grad_(False)  # noqa: FBT003 - its only form


def array_names(model: nn.Module) -> list[str]:
    """Return the names of a model's arrays, in the order of its state."""
    prefixes = wrapper_prefixes(model)
    return [canonical_name(name, prefixes) for name in model.state_dict()]


def tied_arrays(model: nn.Module) -> list[tuple[str, ...]]:
    """Return the groups of names whose arrays share their memory, such as a tied output layer's."""
    prefixes, groups = wrapper_prefixes(model), dict[int, list[str]]()
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor) and not nn.parameter.is_lazy(value) and value.numel():
            groups.setdefault(_place(value), []).append(canonical_name(name, prefixes))
    return [tuple(group) for place, group in groups.items() if place and len(group) > 1]


def _place(value: Tensor) -> int:
    """Return where a tensor's memory begins; 0 on PyTorch's meta device, which has none."""
    # cuDNN stores all weights of a recurrent layer in one block, without tying them.
    return value.untyped_storage().data_ptr() if value.device.type == "cpu" else value.data_ptr()


def _patterns(role: str, given: Patterns) -> tuple[str, ...]:
    """Return the patterns of a role. Raises SettingsError."""
    patterns = (given,) if isinstance(given, str) else tuple(given)
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern:
            message = f"{role} has {pattern!r}: it takes patterns of array names, such as 'head.*'"
            raise SettingsError(message)
        if pattern in CHOICES and (role != "shared" or not isinstance(given, str)):
            message = f"{role} has {pattern!r}: that choice is written shared={pattern!r}, by itself"
            raise SettingsError(message)
    return patterns


def _of_choice(choice: str, model: nn.Module, given: Sharing) -> Sharing:
    """Return the patterns of a ready choice, with further private and frozen ones. Raises SettingsError."""
    if choice == TRAINABLE:
        shared = set(_trainable(model))
        rest = [name for name in array_names(model) if name not in shared]
        if not rest or not shared:
            which = "no parameter" if not shared else "every parameter"
            message = (
                f"shared is {choice!r}, but {which} of the model requires gradients: in make_model, call"
                " requires_grad_(False) on the part to freeze"
            )
            raise SettingsError(message)
        return Sharing(_literal(shared), given.private, (*given.frozen, *_literal(rest)), given.tied)
    private = set(_batch_norms(model) if choice == NO_BATCH_NORM else _last_layer(model))
    if not private:
        what = "no batch normalization" if choice == NO_BATCH_NORM else "no layer with parameters"
        message = f"shared is {choice!r}, but the model has {what}: choose patterns, or leave `shared` out"
        raise SettingsError(message)
    return Sharing((), (*given.private, *_literal(private)), given.frozen, given.tied)


def _trainable(model: nn.Module) -> Iterator[str]:
    for module, path in _modules(model):
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            for name, value in _own_state(module):
                if not isinstance(value, nn.Parameter) or value.requires_grad:
                    yield path + name


def _batch_norms(model: nn.Module) -> Iterator[str]:
    for module, path in _modules(model):
        if isinstance(module, _BatchNorm):
            yield from (path + name for name, _ in _own_state(module))


def _last_layer(model: nn.Module) -> Iterator[str]:
    owners = [pair for pair in _modules(model) if any(True for _ in pair[0].parameters(recurse=False))]
    for module, path in owners[-1:]:
        yield from (path + name for name, _ in _own_state(module))


def _modules(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yield each module with the prefix of its arrays' names; a module with two names twice."""
    prefixes = wrapper_prefixes(model)
    for path, module in model.named_modules(remove_duplicate=False):
        yield module, canonical_name(f"{path}." if path else "", prefixes)


def _own_state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the arrays of a module itself, by their names in it: parameters and persistent buffers."""
    own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    unsaved = module._non_persistent_buffers_set  # noqa: SLF001 - torch has no public way to ask
    yield from ((name, value) for name, value in own.items() if name not in unsaved)


def _literal(names: set[str] | list[str]) -> tuple[str, ...]:
    """Return patterns that match exactly these names."""
    return tuple(_SPECIAL.sub(r"[\1]", name) for name in sorted(names))

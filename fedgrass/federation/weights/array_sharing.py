"""Which arrays of a task travel: the role of each array, chosen by patterns on the arrays' names.

    shared    in the run's model: downloaded, trained, uploaded, averaged
    private   kept on the device, across rounds; never sent
    frozen    the same on all devices and never trained; part of the component, or fetched once per device

Patterns are those of shell file names (``fnmatch``, case-sensitive): ``head.*``, ``*.bn?.*``. ``*`` also
matches dots. Where patterns of several roles match an array, private wins over shared, and shared over
frozen: ``shared=("*lora*",), frozen=("*",)`` freezes everything else. An array that no pattern matches is
shared if there are no patterns for ``shared``, otherwise private: only what is chosen leaves the device.
"""

import difflib
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import TextEnum, shorten
from fedgrass.federation.weights import BFLOAT16, DTYPES, Arrays, dtype_of

FROZEN_SHA256 = "frozen_sha256"  # entry of a model file's metadata: the fingerprint of its frozen base
_NEAREST = 3  # array names that a message suggests
_LONGEST_NAME = 80  # characters of an array's name in a message


class Role(TextEnum):
    """What happens to an array."""

    SHARED = "shared"
    PRIVATE = "private"
    FROZEN = "frozen"


class Sharing(Struct, frozen=True):
    """A task's choice of roles: patterns on the names of its arrays; the default shares all of them.

    Attributes:
        shared: patterns of the arrays in the run's model.
        private: patterns of the arrays that stay on the device.
        frozen: patterns of the arrays that are never trained.
        tied: groups of names that share their memory, such as the weights of an embedding and of the output
            layer. All names of a group must have one role.
    """

    shared: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    tied: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        """Check the patterns, which come from a user's task. Raises SettingsError."""
        for role in Role:
            found: object = getattr(self, role)
            if not isinstance(found, tuple) or not all(isinstance(one, str) and one for one in found):
                message = (
                    f"sharing() has {role}={shorten(repr(found), _LONGEST_NAME)}: it takes a tuple of"
                    " patterns, such as ('head.*',)"
                )
                raise SettingsError(message)


ALL_SHARED = Sharing()


class Roles(Struct, frozen=True):
    """The role of each array, by name, in the order of the task's arrays."""

    of: dict[str, Role]

    def names(self, role: Role) -> list[str]:
        """Return the names of the arrays with a role."""
        return [name for name, found in self.of.items() if found is role]

    def select(self, arrays: Arrays, role: Role) -> dict[str, NDArray[np.generic]]:
        """Return those of the arrays that have a role."""
        return {name: array for name, array in arrays.items() if self.of.get(name) is role}

    @property
    def all_shared(self) -> bool:
        """Whether every array travels, as in a run without roles."""
        return all(role is Role.SHARED for role in self.of.values())


def roles_of(names: Collection[str], sharing: Sharing = ALL_SHARED, narrowed: Sequence[str] = ()) -> Roles:
    """Return the role of each array.

    Args:
        names: of all arrays of the task.
        sharing: the task's choice.
        narrowed: the run's setting ``shared``: patterns of those of the shared arrays that stay shared; the
            others are private in this run. Empty: all of them.

    Raises:
        SettingsError: a pattern matches no array, or leaves no array with its role; nothing is shared; or
            tied arrays have different roles. The message names the pattern and the nearest array names.
    """
    roles = {name: _role(name, sharing) for name in names}
    for role in Role:
        for pattern in getattr(sharing, role):
            _check_pattern(pattern, role, roles, f"the task's {role} pattern")
    if roles:  # a model without arrays is refused where it is created, with what it lacks
        _check_some_shared(roles, "the task shares no array: its patterns give all of them another role")
    shared = {name for name, role in roles.items() if role is Role.SHARED}
    for pattern in narrowed:
        if not matching(pattern, shared):
            raise SettingsError(_unmatched(f"the run's `shared` pattern {shown(pattern)}", shared, pattern))
    if narrowed:
        kept = {name for name in shared if is_named(name, narrowed)}
        roles |= dict.fromkeys(shared - kept, Role.PRIVATE)
    for group in sharing.tied:
        _check_tied([name for name in group if name in roles], roles)
    return Roles(roles)


def is_named(name: str, patterns: Iterable[str]) -> bool:
    """Return whether one of the patterns matches an array's name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that a pattern matches."""
    return [name for name in names if fnmatchcase(name, pattern)]


def shown(name: str) -> str:
    """Return an array's name or a pattern for a message, shortened."""
    return repr(shorten(name, _LONGEST_NAME))


def nearest(name: str, names: Collection[str]) -> str:
    """Return the end of a message that suggests the array names nearest to ``name``."""
    plain = name.replace("*", "")
    found = difflib.get_close_matches(plain, names, _NEAREST, 0.0) or sorted(names)[:_NEAREST]
    return f"the nearest are {', '.join(map(shown, found))}" if found else "there are no arrays"


def _role(name: str, sharing: Sharing) -> Role:
    for role in (Role.PRIVATE, Role.SHARED, Role.FROZEN):
        if is_named(name, getattr(sharing, role)):
            return role
    return Role.PRIVATE if sharing.shared else Role.SHARED


def _check_pattern(pattern: str, role: Role, roles: Mapping[str, Role], what: str) -> None:
    found = matching(pattern, roles)
    if not found:
        raise SettingsError(_unmatched(f"{what} {shown(pattern)}", roles, pattern))
    if not any(roles[name] is role for name in found):
        others = ", ".join(sorted({roles[name] for name in found}))
        message = (
            f"{what} {shown(pattern)} has no effect: its {len(found)} arrays, such as {shown(found[0])}, are"
            f" {others} by other patterns, which take precedence (private over shared over frozen)"
        )
        raise SettingsError(message)


def _unmatched(what: str, names: Collection[str], pattern: str) -> str:
    return f"{what} matches none of the {len(names)} arrays: {nearest(pattern, names)}"


def _check_some_shared(roles: Mapping[str, Role], reason: str) -> None:
    if Role.SHARED in roles.values():
        return
    names = sorted(roles)
    few = ", ".join(map(shown, names[:_NEAREST])) + (", ..." if len(names) > _NEAREST else "")
    message = f"{reason}. A run needs at least one shared array; the task has {few or 'no arrays'}"
    raise SettingsError(message)


def _check_tied(group: Sequence[str], roles: Mapping[str, Role]) -> None:
    for name in group[1:]:
        if roles[name] is not roles[group[0]]:
            message = (
                f"the arrays {shown(group[0])} and {shown(name)} are tied (they share their memory), but the"
                f" first is {roles[group[0]]} and the second {roles[name]}: give both one role"
            )
            raise SettingsError(message)


def frozen_fingerprint(arrays: Arrays) -> str:
    """Return the SHA-256 of arrays over their names, types, shapes and values, in the order of the names.

    Args:
        arrays: of any shape; bfloat16 as ``BFLOAT16``.

    Returns:
        64 hexadecimal digits; empty if there are no arrays.

    Raises:
        UpdateRefused: an array has a type that weights files do not support.
    """
    if not arrays:
        return ""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array, dtype = arrays[name], dtype_of(name, arrays[name])
        digest.update(msgspec.json.encode((name, dtype, array.shape)) + b"\n")
        bits = array.view(np.uint16) if array.dtype == BFLOAT16 else array
        digest.update(np.asarray(bits, DTYPES[dtype], order="C").reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def check_shared(model: Collection[str], narrowed: Sequence[str]) -> None:
    """Check that a run's model has exactly the arrays that the run's setting ``shared`` names.

    Args:
        model: names of the arrays in the model.
        narrowed: the patterns; empty: any arrays.

    Raises:
        SettingsError: an array is not named, or a pattern matches none; the message names it.
    """
    for pattern in narrowed:
        if not matching(pattern, model):
            raise SettingsError(_unmatched(f"the run's `shared` pattern {shown(pattern)}", model, pattern))
    for name in sorted(model) if narrowed else ():
        if not is_named(name, narrowed):
            message = (
                f"the run's model has the array {shown(name)}, which the run's `shared` leaves private: start"
                " it from a model without it (`fedgrass run start --model FILE` leaves it out), or share it"
            )
            raise SettingsError(message)


def split_mismatch(model: Collection[str], roles: Roles) -> str:
    """Return why a run's model does not have exactly the arrays that are shared here; empty if it does.

    Args:
        model: names of the arrays in the run's model.
        roles: of the task's arrays on this side.
    """
    for name in sorted(model):
        role = roles.of.get(name)
        if role is None:
            return (
                f"the run's model has the array {shown(name)}, which the task here does not have:"
                f" {nearest(name, roles.of)}"
            )
        if role is not Role.SHARED:
            return (
                f"the run's model has the array {shown(name)}, which is {role} here: start the run from a"
                " model without it, as `fedgrass task weights` writes it, or share it"
            )
    for name in roles.names(Role.SHARED):
        if name not in model:
            return (
                f"the run's model lacks the array {shown(name)}, which is shared here: start the run from a"
                " model with it, as `fedgrass task weights` writes it, or leave it out of the run's `shared`"
            )
    return ""

"""What a type takes, in words for people: the same ones in an error and in docs/settings.md."""

from collections.abc import Sequence
from typing import Any

import msgspec
import msgspec.inspect as types
from msgspec import NODEFAULT, Struct

Number = int | float


def words(annotation: Any) -> str:
    """Return what a value of the type ``annotation`` may be: "a whole number from 1 to 10".

    A ``description`` in a type's ``Meta`` goes before its pattern, which is no language for people. That a
    value may be left out (``| None``) is not said.
    """
    return _words(types.type_info(annotation))


def field_words(kind: type[Struct]) -> dict[str, tuple[str, object]]:
    """Return the words and the default of each field; the default is ``NODEFAULT`` if one must be given."""
    return {
        field.name: (
            words(field.type),
            field.default if field.default_factory is NODEFAULT else field.default_factory(),
        )
        for field in msgspec.structs.fields(kind)
    }


def _words(kind: types.Type) -> str:  # noqa: C901  # a table of the kinds that there are
    match kind:
        case types.Metadata(extra_json_schema={"description": str(rule)}):
            return rule
        case types.Metadata():
            return _words(kind.type)
        case types.BoolType():
            return "true or false"
        case types.IntType():
            return f"a whole number{_range(kind)}"
        case types.FloatType():
            return f"a number{_range(kind)}"
        case types.StrType():
            return "a text" if kind.max_length is None else f"a text of at most {_length(kind)} characters"
        case types.LiteralType():
            return f"one of: {', '.join(map(str, kind.values))}"
        case types.ListType():
            return f"a list, each entry {_words(kind.item_type)}"
        case types.DictType():
            return f"an object{_size(kind)}, each value {_words(kind.value_type)}"
        case types.StructType():
            return f"an object of {', '.join(field.encode_name for field in kind.fields)}"
        case types.UnionType():
            return _either(kind.types)
        case _:
            return f"a value of the kind {type(kind).__name__.removesuffix('Type').lower()}"


def _range(kind: types.IntType | types.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f" from {_number(kind.ge)} to {_number(kind.le)}"
    bounds = (("above", kind.gt), ("of at least", kind.ge), ("below", kind.lt), ("at most", kind.le))
    said = [f"{word} {_number(bound)}" for word, bound in bounds if bound is not None]
    return f" {' and '.join(said)}" if said else ""


def _number(bound: Number) -> str:
    return f"{bound:,}"


def _length(kind: types.StrType | types.DictType) -> str:
    return _number(kind.max_length or 0)


def _size(kind: types.DictType) -> str:
    return "" if kind.max_length is None else f" of at most {_length(kind)} values"


def _either(kinds: Sequence[types.Type]) -> str:
    """Return the words of a union: texts first, no whole number beside a number, no null."""
    floats = any(isinstance(kind, types.FloatType) for kind in kinds)
    hidden = (types.NoneType, types.IntType) if floats else (types.NoneType,)
    said = [_words(kind) for kind in kinds if not isinstance(kind, hidden)]
    said.sort(key=lambda text: ("true" in text, "number" in text))
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])}, or {said[-1]}"

"""Convert decoded JSON to a struct, or raise an error that names the field, its value and what is allowed.

msgspec decides whether a value is valid, but its messages ("Expected `int` >= 1 - at `$.rounds`") name
neither the value nor, in an object, the key. So a value that it rejects is examined again, part by part.
Errors and docs/settings.md describe what a type allows in the same words.
"""

import difflib
import re
import reprlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec
import msgspec.inspect as types
from msgspec import Struct

from fedgrass.federation.errors import SettingsError

Number = int | float


def words(annotation: Any) -> str:
    """Return a description of the values of the type ``annotation``: "a whole number from 1 to 10".

    A ``description`` in a type's ``Meta`` takes precedence over its pattern. That a value may be left out
    (``| None``) is not mentioned.
    """
    return _words(types.type_info(annotation))


def _words(kind: types.Type) -> str:  # noqa: C901 - a table of the supported types
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
    limits = [f"{word} {_number(bound)}" for word, bound in bounds if bound is not None]
    return f" {' and '.join(limits)}" if limits else ""


def _number(bound: Number) -> str:
    # typing keeps one of two equal annotations, so a bound of a whole number may be a float by chance.
    return f"{int(bound):,}" if bound == int(bound) else f"{bound:,}"


def _length(kind: types.StrType | types.DictType) -> str:
    return _number(kind.max_length or 0)


def _size(kind: types.DictType) -> str:
    return "" if kind.max_length is None else f" of at most {_length(kind)} values"


def _either(kinds: Sequence[types.Type]) -> str:
    """Return the description of a union: texts first, no whole number next to a number, no null."""
    floats = any(isinstance(kind, types.FloatType) for kind in kinds)
    hidden = (types.NoneType, types.IntType) if floats else (types.NoneType,)
    choices = [_words(kind) for kind in kinds if not isinstance(kind, hidden)]
    choices.sort(key=lambda text: ("true" in text, "number" in text))
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])}, or {choices[-1]}"


LONGEST_VALUE = 60  # characters of a value in an error message
_PLAIN_NAME = r"^[A-Za-z0-9_-]{1,60}\Z"
AnyStruct = TypeVar("AnyStruct", bound=Struct)


def convert(
    values: object, kind: type[AnyStruct], *, whole: str, part: str, strict: bool = True
) -> AnyStruct:
    """Return the ``kind`` that ``values``, a decoded JSON object, describes.

    Args:
        values: The operator's or user's input.
        kind: A struct with a bound or a choice at each field that needs one.
        whole: The name of the whole object in messages, such as "the run's settings".
        part: The prefix of a field's name in messages, such as "the run's ".
        strict: Whether to reject a number spelled as a text.

    Raises:
        SettingsError: A field is unknown, missing or invalid; the message names it, the value (shortened)
            and what it accepts, or the nearest known name.
    """
    try:
        return msgspec.convert(values, kind, strict=strict)
    except (msgspec.ValidationError, RecursionError) as error:
        found = next(
            _struct_complaints(values, kind, whole, part, strict=strict), f"{whole} cannot be used: {error}"
        )
        raise SettingsError(found) from error


def nearest(name: object, known: Collection[str]) -> str:
    """Return a hint on an unknown ``name``: the known name that was probably meant, or all known names."""
    if close := difflib.get_close_matches(str(name)[:LONGEST_VALUE], known, n=1):
        return f"did you mean {close[0]!r}?"
    return f"there are: {', '.join(known)}" if known else "there are none"


def shown(value: object) -> str:
    """Return a value in one short line, with null, true and false as in JSON and the rest as in Python."""
    return _SHORT.repr(value)


def shown_key(key: object) -> str:
    """Return a key unchanged if it is a plain name, otherwise quoted and shortened."""
    return key if isinstance(key, str) and re.match(_PLAIN_NAME, key) else shown(key)


class _Short(reprlib.Repr):
    """Shortens long texts, lists and objects by leaving out their middle."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxlong = self.maxother = LONGEST_VALUE
        self.maxlevel = 3

    def repr_NoneType(self, _value: None, _level: int) -> str:  # noqa: N802 - reprlib's names
        return "null"

    def repr_bool(self, value: bool, _level: int) -> str:  # noqa: FBT001 - reprlib's signature
        return "true" if value else "false"

    def repr_int(self, value: int, level: int) -> str:
        try:
            return super().repr_int(value, level)
        except ValueError:  # Python does not print numbers of more than 4,300 digits
            return "a number of thousands of digits"


_SHORT = _Short()


def _struct_complaints(
    values: object, kind: type[Struct], whole: str, part: str, *, strict: bool
) -> Iterator[str]:
    if not isinstance(values, Mapping):
        yield f"{shown(values)} cannot be {whole}: that is an object of names and their values"
        return
    known = kind.__struct_fields__
    if kind.__struct_config__.forbid_unknown_fields:
        for name in values:
            if name not in known:
                yield f"{shown(name)} is not one of {whole}: {nearest(name, known)}"
    for field in msgspec.structs.fields(kind):
        if field.name in values:
            yield from _complaints(values[field.name], field.type, f"{part}{field.name}", strict=strict)
        elif field.required:
            yield f"{part}{field.name} is missing: it takes {words(field.type)}"


def _complaints(value: object, annotation: Any, place: str, *, strict: bool) -> Iterator[str]:
    """Yield messages on a value: on its parts, if they can be examined separately, else on the whole."""
    try:
        msgspec.convert(value, annotation, strict=strict)
    except (msgspec.ValidationError, RecursionError):
        yield from _complaints_of_parts(value, _bare(annotation), place, strict=strict)
        yield f"{place} is {shown(value)}: it takes {words(annotation)}"


def _complaints_of_parts(value: object, bare: Any, place: str, *, strict: bool) -> Iterator[str]:
    origin, arguments = get_origin(bare), get_args(bare)
    if isinstance(bare, type) and issubclass(bare, Struct):
        yield from _struct_complaints(value, bare, place, f"{place}.", strict=strict)
    elif origin is dict and isinstance(value, Mapping):
        for key, entry in value.items():
            for _ in _complaints(key, arguments[0], place, strict=True):
                yield f"{place} has the name {shown(key)}: a name takes {words(arguments[0])}"
            yield from _complaints(entry, arguments[1], f"{place}.{shown_key(key)}", strict=strict)
    elif origin is list and isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _complaints(entry, arguments[0], f"{place}[{index}]", strict=strict)


def _bare(annotation: Any) -> Any:
    """Return a type without its constraints and without ``None``."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in {Union, UnionType}:
        others = [kind for kind in get_args(annotation) if kind is not NoneType]
        return _bare(others[0]) if len(others) == 1 else annotation
    return annotation

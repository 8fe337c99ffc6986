"""The form that starts a run: its fields follow from the types of the settings."""

import json
import re
from collections.abc import Mapping, Sequence
from enum import Enum, StrEnum
from typing import Any

import msgspec
from msgspec import Struct, inspect

from fedgrass.federation.conversion import shown
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.settings import RunSettings

# Shown first, in this order; all other settings follow under "More settings".
FIRST = (
    *("task", "rounds", "selection", "fraction", "count", "where", "threshold", "minimum_replies"),
    *("deadline_seconds", "aggregation", "training", "evaluate_every", "target_metric", "target_value"),
)
_ALTERNATIVES = re.compile(r"\^\(([a-z0-9_]+(?:\|[a-z0-9_]+)*)\)\\Z")
_ONE_OF = "one of: "


class Kind(StrEnum):
    """What a field takes."""

    TEXT = "text"
    WHOLE = "whole"
    NUMBER = "number"
    FLAG = "flag"
    CHOICE = "choice"
    JSON = "json"


class Field(Struct, frozen=True, kw_only=True):
    """One field of the form."""

    name: str
    kind: Kind
    required: bool = False
    default: str = ""  # as text; of a flag: "true" or "false"; empty: none, or not set
    choices: tuple[str, ...] = ()  # of a choice: all; of a text: suggestions
    help: str = ""  # what it accepts
    first: bool = False  # whether it is among the fields that are shown at once


def settings_fields() -> tuple[Field, ...]:
    """Return a field per setting of a run, the usual ones first."""
    info = inspect.type_info(RunSettings)
    assert isinstance(info, inspect.StructType)  # noqa: S101 - for the type checker
    fields = [_field(one) for one in info.fields]
    order = {name: place for place, name in enumerate(FIRST)}
    return tuple(sorted(fields, key=lambda field: order.get(field.name, len(FIRST))))


def settings_of(fields: Sequence[Field], given: Mapping[str, object]) -> dict[str, object]:
    """Return the settings that differ from their defaults, for ``parse_settings``.

    Args:
        fields: of the form.
        given: texts by field, and booleans for flags, as the browser sent them.

    Raises:
        SettingsError: a field is unknown, or its text is not of the field's kind.
    """
    known = {field.name: field for field in fields}
    for name in given:
        if name not in known:
            message = f"the form has no field {shown(name)}"
            raise SettingsError(message)
    found: dict[str, object] = {}
    for field in fields:
        raw = given.get(field.name, "")
        text = ("true" if raw else "false") if isinstance(raw, bool) else str(raw).strip()
        if text and text != field.default:
            found[field.name] = _value(field, text)
    return found


def _value(field: Field, text: str) -> object:
    if field.kind in {Kind.TEXT, Kind.CHOICE}:
        return text
    if field.kind is Kind.FLAG:
        return text == "true"
    wants = {Kind.WHOLE: "a whole number", Kind.NUMBER: "a number", Kind.JSON: "JSON"}[field.kind]
    try:
        if field.kind is Kind.WHOLE:
            return int(text)
        return float(text) if field.kind is Kind.NUMBER else json.loads(text)
    except (ValueError, RecursionError) as error:
        message = f"{field.name} is {shown(text)}: it takes {wants}"
        raise SettingsError(message) from error


def _field(one: inspect.Field) -> Field:
    kind, choices, about = _described(one.type)
    default = "" if one.required else _text(_default(one), kind)
    return Field(
        name=one.name,
        kind=kind,
        required=one.required,
        default=default,
        choices=choices,
        help=about,
        first=one.name in FIRST,
    )


def _default(one: inspect.Field) -> Any:
    if one.default_factory is not msgspec.NODEFAULT:
        return one.default_factory()
    return one.default


def _text(value: object, kind: Kind) -> str:
    """Return a default as the text that the field would contain."""
    if value is None or value in ("", {}, []):
        return ""
    if kind is Kind.FLAG:
        return "true" if value else "false"
    if kind is Kind.JSON:
        return msgspec.json.encode(value).decode()
    return str(value.value) if isinstance(value, Enum) else str(value)


def _described(type_: inspect.Type) -> tuple[Kind, tuple[str, ...], str]:
    """Return the kind of field for a type, its choices, and what it accepts."""
    if isinstance(type_, inspect.Metadata):
        kind, choices, about = _described(type_.type)
        about = str((type_.extra_json_schema or {}).get("description", about))
        if kind is Kind.TEXT and about.startswith(_ONE_OF):  # and others: these are suggestions
            choices = tuple(about.removeprefix(_ONE_OF).partition(";")[0].split(", "))
        return kind, choices, "" if kind is Kind.CHOICE else about
    if isinstance(type_, inspect.UnionType):
        others = [one for one in type_.types if not isinstance(one, inspect.NoneType)]
        return _described(others[0]) if len(others) == 1 else (Kind.JSON, (), "JSON")
    if isinstance(type_, inspect.BoolType):
        return Kind.FLAG, (), ""
    if isinstance(type_, inspect.IntType):
        return Kind.WHOLE, (), _range(type_)
    if isinstance(type_, inspect.FloatType):
        return Kind.NUMBER, (), _range(type_)
    if isinstance(type_, inspect.LiteralType):
        return Kind.CHOICE, tuple(str(value) for value in type_.values), ""
    if isinstance(type_, inspect.EnumType):
        return Kind.CHOICE, tuple(str(one.value) for one in type_.cls), ""
    if isinstance(type_, inspect.StrType):
        return _text_field(type_)
    return Kind.JSON, (), "JSON"


def _text_field(type_: inspect.StrType) -> tuple[Kind, tuple[str, ...], str]:
    found = _ALTERNATIVES.fullmatch(type_.pattern or "")
    return (Kind.CHOICE, tuple(sorted(found[1].split("|"))), "") if found else (Kind.TEXT, (), "")


def _range(type_: inspect.IntType | inspect.FloatType) -> str:
    low = (
        f"from {type_.ge:,}" if type_.ge is not None else f"above {type_.gt}" if type_.gt is not None else ""
    )
    high = f"to {type_.le:,}" if type_.le is not None and type_.le < 2**53 else ""
    return " ".join(part for part in (low, high) if part)

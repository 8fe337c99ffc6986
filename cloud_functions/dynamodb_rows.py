"""How records become rows of DynamoDB and requests to change them. No calls are made here."""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import ClientError

from fedgrass.federation.errors import LostRace

Row = dict[str, Any]
Record = TypeVar("Record", bound=msgspec.Struct)

_serialize = TypeSerializer().serialize
_deserialize = TypeDeserializer().deserialize


def marshal(row: Mapping[str, object]) -> dict[str, Any]:
    """Return a row in DynamoDB's own typed form; a mapping becomes JSON text.

    Metrics are the user's, and JSON takes every number that they can have; DynamoDB's numbers do not.
    """
    return {name: _serialize(_plain(value)) for name, value in row.items()}


def _plain(value: object) -> object:
    match value:
        case dict() | msgspec.Struct():
            return msgspec.json.encode(value).decode()
        case float():
            return Decimal(repr(round(value, 6)))
        case _:
            return value


def unmarshal(item: Mapping[str, Any]) -> Row:
    """Return an item of DynamoDB as plain values."""
    return {name: _deserialize(value) for name, value in item.items()}


def to_row(record: msgspec.Struct) -> Row:
    """Return a record's fields."""
    return {name: getattr(record, name) for name in record.__struct_fields__}


def to_record(row: Row, kind: type[Record]) -> Record:
    """Return the record that a row holds."""
    values: Row = {}
    for name, value in row.items():
        if isinstance(value, Decimal):
            values[name] = int(value) if value == value.to_integral_value() else float(value)
        elif name in _JSON_FIELDS:
            values[name] = json.loads(value)
        else:
            values[name] = value
    return msgspec.convert(values, kind)


# Of a transaction that is cancelled for one of these, the same may succeed in a moment.
_PASSING = frozenset({"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})

_JSON_FIELDS = frozenset(
    {"base_carried", "carried", "judged", "metrics", "needs", "progress", "settings", "train_metrics"}
)


def update_expression(
    values: Mapping[str, object], stands: Mapping[str, object], add: Mapping[str, int]
) -> dict[str, Any]:
    """Return the expressions that set ``values`` and add to counters if the row stands as ``stands``.

    A set of values in ``stands`` means any of them. The row has to exist in any case. A count that is to be 0
    may be missing: rows that were written before the count was introduced do not have it.
    """
    names = {"#run": "run"}
    bound: dict[str, object] = {}
    conditions = ["attribute_exists(#run)"]
    for index, (name, value) in enumerate(stands.items()):
        names[f"#c{index}"] = name
        allowed = sorted(value) if isinstance(value, frozenset) else [value]
        places = [f":c{index}_{place}" for place in range(len(allowed))]
        bound.update(zip(places, allowed, strict=True))
        stands_so = f"#c{index} IN ({', '.join(places)})"
        if value == 0:
            stands_so = f"(attribute_not_exists(#c{index}) OR {stands_so})"
        conditions.append(stands_so)
    changes = []
    for index, (name, value) in enumerate(values.items()):
        names[f"#s{index}"] = name
        bound[f":s{index}"] = value
        changes.append(f"#s{index} = :s{index}")
    expression = "SET " + ", ".join(changes) if changes else ""
    additions = []
    for index, (name, value) in enumerate(add.items()):
        names[f"#a{index}"] = name
        bound[f":a{index}"] = value
        additions.append(f"#a{index} :a{index}")
    if additions:
        expression += " ADD " + ", ".join(additions)
    return {
        "UpdateExpression": expression.strip(),
        "ConditionExpression": " AND ".join(conditions),
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": marshal(bound),
    }


def disturbed(error: ClientError) -> bool:
    """Return whether a write failed only because of others that touched the table at that moment."""
    code = error.response["Error"]["Code"]
    if code == "TransactionCanceledException":
        reasons = _reasons(error)
        return bool(reasons & _PASSING) and reasons <= _PASSING
    return code in {"TransactionConflictException", "TransactionInProgressException"}


def translated(error: ClientError) -> Exception:
    """Return ``LostRace`` for a condition that did not hold, and any other error as it is.

    Only for that one: whoever loses a race reads again and goes on, so an error that comes each time, as of
    a row that is too large, would send it round for ever.
    """
    code = error.response["Error"]["Code"]
    if code == "ConditionalCheckFailedException" or "ConditionalCheckFailed" in _reasons(error):
        return LostRace("a row was moved by somebody else first")
    return _with_reasons(error)


def _with_reasons(error: ClientError) -> ClientError:
    """Return the error of a cancelled transaction with the reasons of its rows, which its text lacks."""
    said = {reason.get("Message") for reason in error.response.get("CancellationReasons", [])} - {None, ""}
    if not said:
        return error
    found = error.response["Error"]
    message = f"{found.get('Message', '')}: {', '.join(sorted(map(str, said)))}"
    answer: Any = {**error.response, "Error": {**found, "Message": message}}
    return ClientError(answer, error.operation_name)


def _reasons(error: ClientError) -> set[str]:
    """Return why a transaction was cancelled, without the rows that had no part in it."""
    reasons = error.response.get("CancellationReasons", [])
    return {reason.get("Code", "None") for reason in reasons} - {"None"}

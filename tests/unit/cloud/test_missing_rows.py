"""Rows that another worker has stored are left out of the next transaction, and not put one by one."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cloud_functions.aws.dynamodb_table import Table
from fedgrass.federation.errors import LostRace


class Dynamo:
    """DynamoDB with the rows that exist; ``calls`` has the size of each transaction."""

    def __init__(self, there: set[str], *, reasons: bool = True) -> None:
        self.rows, self.calls, self._reasons = set(there), list[int](), reasons

    def transact_write_items(self, *, TransactItems: Sequence[Mapping[str, Any]]) -> dict[str, Any]:  # noqa: N803
        items = [one["Put"]["Item"]["item"]["S"] for one in TransactItems]
        self.calls.append(len(items))
        if self.rows.intersection(items):
            reasons = [{"Code": "ConditionalCheckFailed" if one in self.rows else "None"} for one in items]
            answer: Any = {"Error": {"Code": "TransactionCanceledException", "Message": ""}}
            if self._reasons:
                answer["CancellationReasons"] = reasons
            else:
                answer["Error"]["Code"] = "ConditionalCheckFailedException"
            raise ClientError(answer, "TransactWriteItems")
        self.rows.update(items)
        return {}


def _table(client: Any) -> Table:
    return Table(client, "rounds", lambda _: None)


def _rows(count: int) -> list[dict[str, Any]]:
    return [{"run": "r", "item": f"participant/{number:05}"} for number in range(count)]


def test_a_second_worker_needs_one_transaction_per_hundred_rows_that_exist() -> None:
    dynamo = Dynamo({f"participant/{number:05}" for number in range(200)})
    _table(dynamo).put_missing(_rows(200))
    assert dynamo.calls == [100, 100]


def test_only_the_rows_that_are_missing_are_put() -> None:
    dynamo = Dynamo({"participant/00001", "participant/00003"})
    _table(dynamo).put_missing(_rows(5))
    assert dynamo.calls == [5, 3]
    assert len(dynamo.rows) == 5


def test_a_refusal_without_reasons_does_not_repeat_for_ever() -> None:
    with pytest.raises(LostRace):
        _table(Dynamo({"participant/00001"}, reasons=False)).put_missing(_rows(3))

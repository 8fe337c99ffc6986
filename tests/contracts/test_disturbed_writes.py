"""Writes in DynamoDB that meet a conflict with another write: retried, never taken for a lost race."""

from collections.abc import Callable
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError

from cloud_functions.aws.dynamodb_rounds import DynamoRounds
from cloud_functions.aws.dynamodb_table import disturbed, translated
from fedgrass.federation.errors import LostRace
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import Progress
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.contracts.conftest import make_table
from tests.contracts.test_round_store import (
    DEVICES,
    NOW,
    a_reply,
    a_round,
    a_run,
    as_read,
    current,
    leased,
    the_run,
)


class Disturbed:
    """DynamoDB's client, whose first writes fail with an error of a concurrent write."""

    def __init__(self, client: Any, error: ClientError, times: int) -> None:
        self._client = client
        self._error = error
        self.left = times

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return method if name not in {"transact_write_items", "update_item"} else self._disturbing(method)

    def _disturbing(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            if self.left:
                self.left -= 1
                raise self._error
            return method(**arguments)

        return call


def an_error(code: str, *reasons: str) -> ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": ""},
        "CancellationReasons": [{"Code": reason} for reason in reasons],
    }
    return ClientError(response, "Write")


PASSING = [
    an_error("TransactionCanceledException", "None", "TransactionConflict"),
    an_error("TransactionCanceledException", "ThrottlingError", "None"),
    an_error("TransactionConflictException"),
    an_error("TransactionInProgressException"),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: str(error.response["CancellationReasons"]))
def test_a_write_that_meets_a_conflict_is_retried(embedded_cloud: EmbeddedCloud, error: ClientError) -> None:
    table = make_table(embedded_cloud, "run", "item")
    client = Disturbed(embedded_cloud.client("dynamodb"), error, times=0)
    pauses: list[float] = []
    store = DynamoRounds(cast(Any, client), table, pauses.append)
    store.create_run(a_run())
    store.ask(a_round(), DEVICES)
    store.open_round(a_run(), a_round(), Progress())
    for write in (
        lambda: store.count_reply(a_round(), as_read("thing-0"), a_reply(), NOW),
        lambda: store.mark_announced(a_round(), NOW),
        lambda: store.replace(current(store), [as_read("thing-1")], ["thing-9"], replaced=0, at=NOW),
        lambda: store.change_run(the_run(store), wanted=2),
        lambda: leased(store, a_round()),
    ):
        client.left = 3
        write()
    assert len(pauses) == 15
    now = current(store)
    assert (now.replied, now.asked, now.state) == (1, 9, State.AGGREGATING)
    assert the_run(store).wanted == 2


def test_a_write_that_always_meets_a_conflict_gives_up_with_the_error_itself(
    embedded_cloud: EmbeddedCloud,
) -> None:
    table = make_table(embedded_cloud, "run", "item")
    client = Disturbed(embedded_cloud.client("dynamodb"), PASSING[0], times=10**6)
    store = DynamoRounds(cast(Any, client), table, lambda _seconds: None)
    with pytest.raises(ClientError):
        store.create_run(a_run())


def test_only_a_condition_that_did_not_hold_is_a_lost_race() -> None:
    """A worker that loses a race retries: with any other error it would retry indefinitely."""
    lost = [
        an_error("ConditionalCheckFailedException"),
        an_error("TransactionCanceledException", "None", "ConditionalCheckFailed"),
        an_error("TransactionCanceledException", "TransactionConflict", "ConditionalCheckFailed"),
    ]
    other = [
        an_error("TransactionCanceledException", "ValidationError"),
        an_error("TransactionCanceledException", "ItemCollectionSizeLimitExceeded"),
        an_error("TransactionCanceledException"),
        an_error("ResourceNotFoundException"),
    ]
    assert all(isinstance(translated(error), LostRace) for error in lost)
    assert all(translated(error) is error for error in other)
    assert not any(disturbed(error) for error in [*lost, *other])

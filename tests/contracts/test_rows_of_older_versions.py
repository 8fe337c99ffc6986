"""Rows that an older version wrote lack newer columns, and can still be moved."""

import time

from cloud_functions.aws.dynamodb_rounds import DynamoRounds
from cloud_functions.aws.dynamodb_table import marshal
from fedgrass.federation.runs import RunAction, RunState
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.contracts.conftest import make_table
from tests.contracts.test_round_store import a_run


def test_a_run_without_a_count_of_actions_takes_its_first_one(embedded_cloud: EmbeddedCloud) -> None:
    client, table = embedded_cloud.client("dynamodb"), make_table(embedded_cloud, "run", "item")
    store = DynamoRounds(client, table, time.sleep)
    store.create_run(a_run())
    client.update_item(
        TableName=table,
        Key=marshal({"run": "run-1", "item": "run"}),
        UpdateExpression="REMOVE actions, done, history",
    )
    found = store.run("run-1")
    assert found is not None
    assert (found.actions, found.done, found.history) == (0, (), ())
    performed = RunAction(at=1, action="pause", by="arn:aws:iam::1:user/ben")
    store.change_run(found, state=RunState.PAUSED, **found.with_action("a", performed))
    changed = store.run("run-1")
    assert changed is not None
    assert changed.has_done("a")
    assert changed.history == (performed,)


def test_a_run_in_a_list_without_the_mark_is_unsettled(embedded_cloud: EmbeddedCloud) -> None:
    client, table = embedded_cloud.client("dynamodb"), make_table(embedded_cloud, "run", "item")
    store = DynamoRounds(client, table, time.sleep)
    store.create_run(a_run())
    ended = {"run": "#runs", "item": "run-1", "state": RunState.SUCCEEDED}
    client.put_item(TableName=table, Item=marshal(ended))
    assert store.unsettled() == ["run-1"]

"""Defects of the replaced systems that can be seen in the shipped code.

tests/guards/replaced_systems/test_defects_of_replaced_systems.py has the list of all defects.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.stub import Stubber

from cloud_functions import wiring
from cloud_functions.aws.device_directory import DynamoDevices
from cloud_functions.aws.dynamodb_rounds import DynamoRounds
from components.trainer.worker import model_download
from fedgrass.federation.runs import RunState
from tests.guards.cloud_files import PROJECT

DEVICE_AND_CLOUD = ("components", "cloud_functions")
SHIPPED = ("fedgrass", "greengrass_emulator", *DEVICE_AND_CLOUD)
UNSAFE_FORMATS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
# `fedgrass model convert-pickle`, offline: an unpickler that knows arrays alone, and files of PyTorch.
UNPICKLER = "fedgrass/local/model_files/pickled_arrays.py"
PYTORCH_FILES = "fedgrass/local/model_files/pytorch_files.py"
# Each waits for another part of the same process, whose end also ends the wait.
ENDED_BY_THEIR_OWN_SIDE = {
    "components/trainer/worker/__main__.py": ["self._work.get"],  # its reader thread always ends with None
    "components/trainer/worker/worker_process.py": [
        "process.wait"
    ],  # a separate thread; stop() kills the process
}


def sources(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    """Yield the path and the syntax tree of every module in some of the project's folders."""
    for folder in folders:
        for path in sorted((PROJECT / folder).rglob("*.py")):
            yield str(path.relative_to(PROJECT)), parsed(path)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def calls(tree: ast.Module) -> list[tuple[str, ast.Call]]:
    """Return every call in a module, with the source of the called expression."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def imported(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_nothing_that_is_shipped_imports_a_format_that_runs_code() -> None:
    modules = list(sources(*SHIPPED))
    assert len(modules) > 80  # the folders were found
    assert [path for path, tree in modules if imported(tree) & UNSAFE_FORMATS] == [UNPICKLER]


def test_the_one_module_that_reads_pickles_calls_no_loader_of_the_library() -> None:
    called = {name for name, _ in calls(parsed(PROJECT / UNPICKLER)) if name.startswith("pickle.")}
    assert called == set()  # it only derives from pickle.Unpickler
    importers = [path for path, tree in sources(*SHIPPED) if "pickled_arrays" in ast.unparse(tree)]
    assert set(importers) == {
        "fedgrass/console/models/pickle_conversion.py",  # starts it in a child process
        "fedgrass/local/model_files/__init__.py",  # lists it
    }


def test_nothing_that_is_shipped_loads_pickles_through_a_library() -> None:
    loaders = {"torch.load", "np.load", "numpy.load", "eval", "exec"}
    found = [
        (path, name)
        for path, tree in sources(*SHIPPED)
        for name, call in calls(tree)
        if name in loaders or pickles(call)
    ]
    assert found == [(PYTORCH_FILES, "torch.load")]
    (load,) = [call for name, call in calls(parsed(PROJECT / PYTORCH_FILES)) if name == "torch.load"]
    assert "weights_only=True" in ast.unparse(load)


def pickles(call: ast.Call) -> bool:
    return any(keyword.arg == "allow_pickle" for keyword in call.keywords)


def test_certificates_are_checked_everywhere() -> None:
    unchecked = re.compile(
        r"verify\s*=\s*False|CERT_NONE|check_hostname\s*=\s*False|_create_unverified_context"
    )
    files = [path for folder in SHIPPED for path in sorted((PROJECT / folder).rglob("*.py"))]
    assert [str(path) for path in files if unchecked.search(path.read_text(encoding="utf-8"))] == []


def test_no_key_of_aws_is_in_code_template_or_recipe_and_no_device_gets_one() -> None:
    keys = re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b|(?i:aws_(secret_)?access_key)|AWS::IAM::(User|AccessKey)")
    files = [path for folder in DEVICE_AND_CLOUD for path in sorted((PROJECT / folder).rglob("*.py"))]
    files += [PROJECT / "template.yaml", PROJECT / "recipe.yaml", *(PROJECT / "iot_rules").glob("*.yaml")]
    assert [str(path) for path in files if keys.search(path.read_text(encoding="utf-8"))] == []


def test_no_region_is_fixed_in_code_template_or_recipe() -> None:
    region = re.compile(r"\b[a-z]{2}(-gov|-iso[a-z]?)?-(north|south|east|west|central)\w*-\d\b")
    files = [path for folder in DEVICE_AND_CLOUD for path in sorted((PROJECT / folder).rglob("*.py"))]
    files += sorted((PROJECT / "fedgrass/federation").rglob("*.py"))
    files += sorted((PROJECT / "fedgrass/console").rglob("*.py"))
    files += [PROJECT / "template.yaml", PROJECT / "recipe.yaml", *(PROJECT / "iot_rules").glob("*.yaml")]
    assert [str(path) for path in files if region.search(path.read_text(encoding="utf-8"))] == []
    assert region.search("eu-central-1")


def test_no_bucket_is_named_in_the_code_of_devices_and_cloud() -> None:
    fixed = [
        (path, ast.unparse(call))
        for path, tree in sources(*DEVICE_AND_CLOUD)
        for _name, call in calls(tree)
        for keyword in call.keywords
        if keyword.arg in {"Bucket", "TableName", "QueueUrl", "bucket"}
        and isinstance(keyword.value, ast.Constant)
    ]
    assert fixed == []


WAITS = {"wait", "get", "join", "result", "acquire", "communicate"}


def bounded(call: ast.Call) -> bool:
    """Return whether a call has a time-out (for ``get`` of a mapping and ``join`` of a text: an argument)."""
    return bool(call.args or call.keywords)


def test_no_wait_of_devices_and_cloud_is_without_a_time_out() -> None:
    found: dict[str, list[str]] = {}
    for path, tree in sources(*DEVICE_AND_CLOUD):
        for name, call in calls(tree):
            # An aggregator's result() is a sum.
            if name.rpartition(".")[2] in WAITS and not bounded(call) and name != "aggregator.result":
                found.setdefault(path, []).append(name)
    assert found == ENDED_BY_THEIR_OWN_SIDE


def test_every_process_that_devices_and_cloud_run_to_its_end_has_a_time_out() -> None:
    unbounded = [
        (path, name)
        for path, tree in sources(*DEVICE_AND_CLOUD)
        for name, call in calls(tree)
        if name in {"subprocess.run", "subprocess.check_output", "subprocess.check_call", "subprocess.call"}
        and "timeout" not in {keyword.arg for keyword in call.keywords}
    ]
    assert unbounded == []


@pytest.mark.parametrize("config", [wiring._CONFIG, model_download.CONFIG], ids=["cloud", "device"])
def test_clients_of_aws_have_time_outs_and_a_bounded_number_of_tries(config: Any) -> None:
    assert isinstance(config, Config)
    options: dict[str, Any] = vars(config)
    assert 0 < options["connect_timeout"] <= 10
    assert 0 < options["read_timeout"] <= 60
    assert options["retries"]["total_max_attempts"] <= 5


def test_every_client_of_aws_is_made_with_those_time_outs() -> None:
    without = [
        (path, name)
        for path, tree in sources(*DEVICE_AND_CLOUD)
        for name, call in calls(tree)
        if name.endswith(("boto3.client", "session.client", "boto3.resource"))
        and "config" not in {keyword.arg for keyword in call.keywords}
    ]
    assert without == []


def test_no_loop_of_devices_and_cloud_is_endless() -> None:
    """Return whether a ``while True`` can end: it has an exit in its body, or is a generator."""
    endless = [
        (path, node.lineno)
        for path, tree in sources(*DEVICE_AND_CLOUD)
        for node in ast.walk(tree)
        if isinstance(node, ast.While) and isinstance(node.test, ast.Constant) and not leaves(node)
    ]
    assert endless == []


def leaves(loop: ast.While) -> bool:
    return any(isinstance(node, ast.Return | ast.Break | ast.Raise | ast.Yield) for node in ast.walk(loop))


# The hours in which the operator allows training are the device's local time: they are never sent.
HOURS = ("components/trainer/session/eligibility.py", "datetime.now")
# Credentials expire by wall-clock time, which AWS's SDK also compares with the device's clock.
EXPIRY = ("components/trainer/connection/iot_credentials.py", "datetime.now")

# Log lines have their time, and a request for them expires: S3 refuses a device with a wrong clock anyway.
LOG_LINES = ("components/trainer/device_log/log_ring.py", "time.time_ns")


def test_a_device_is_named_by_its_thing_alone_and_reads_the_clock_of_the_day_for_its_hours_alone() -> None:
    of_itself = r"socket\.gethostname|platform\.node|uuid\.\w+"
    of_the_day = r"time\.time(_ns)?|(datetime\.)?datetime\.(utc)?now"
    forbidden = re.compile(f"({of_itself}|{of_the_day})$")
    found = [
        (path, name)
        for path, tree in sources("components")
        for name, _call in calls(tree)
        if forbidden.match(name)
    ]
    assert sorted((str(path), name) for path, name in found) == sorted([EXPIRY, HOURS, LOG_LINES])


def pages(operation: str, *answers: dict[str, Any]) -> tuple[Any, Stubber]:
    """Return a DynamoDB client that answers page by page, each requested with the previous page's key."""
    nobody = {"aws_access_key_id": "none", "aws_secret_access_key": "none"}
    client: Any = boto3.client("dynamodb", region_name="eu-north-1", **nobody)  # type: ignore[call-overload]
    stubber = Stubber(client)
    for answer in answers:
        stubber.add_response(operation, answer)
    return client, stubber


def test_a_scan_of_devices_reads_every_page() -> None:
    def row(name: str) -> dict[str, Any]:
        return {"device": {"S": name}, "last_seen": {"N": "5"}, "tasks": {"S": "digits"}}

    client, stubber = pages(
        "scan",
        {"Items": [row("a"), row("b")], "LastEvaluatedKey": {"device": {"S": "b"}}},
        {"Items": [], "LastEvaluatedKey": {"device": {"S": "x"}}},  # everything was filtered out
        {"Items": [row("z")]},
    )
    with stubber:
        assert [found.device for found in DynamoDevices(client, "devices").seen_since(0)] == ["a", "b", "z"]
        stubber.assert_no_pending_responses()


def test_a_list_of_runs_reads_every_page() -> None:
    def row(name: str) -> dict[str, Any]:
        return {"run": {"S": "/runs"}, "item": {"S": name}, "state": {"S": RunState.RUNNING.value}}

    client, stubber = pages(
        "query",
        {"Items": [row("a")], "LastEvaluatedKey": {"run": {"S": "/runs"}, "item": {"S": "a"}}},
        {"Items": [row("b")]},
    )
    with stubber:
        assert list(DynamoRounds(client, "rounds", lambda _seconds: None).runs()) == ["a", "b"]
        stubber.assert_no_pending_responses()


def test_nothing_is_listed_from_aws_but_through_a_paginator() -> None:
    listing = re.compile(r"_(client|s3|sqs|iot|scheduler)\.(scan|query|list_\w+)$")
    found = [
        (path, name)
        for path, tree in sources("cloud_functions")
        for name, _call in calls(tree)
        if listing.search(name)
    ]
    assert found == []


def test_the_tests_of_the_shipped_code_are_many() -> None:
    """The replaced systems had no tests at all."""
    files = list(Path(PROJECT / "tests").rglob("test_*.py"))
    assert sum(path.read_text(encoding="utf-8").count("\ndef test_") for path in files) > 500

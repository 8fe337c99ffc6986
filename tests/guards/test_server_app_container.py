"""The container of ServerApps in template.yaml, and its image: optional, unprivileged, least permissions."""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import requires
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fedgrass.console.flower.server_app_task import CONTAINER, Network
from fedgrass.federation import object_keys
from tests.guards.cloud_files import PROJECT, template
from tests.permissions.grants import Statement, allows, missing
from tests.permissions.needs import Need

BUCKET, TABLE = "arn:aws:s3:::bucket", "arn:aws:dynamodb:us-east-1:000000000000:table/rounds"
INITIATOR = "arn:aws:lambda:us-east-1:000000000000:function:initiator"
STACK = "arn:aws:cloudformation:us-east-1:000000000000:stack/fedgrass/0123"
NAMES = {
    "Bucket.Arn": BUCKET,
    "RoundsTable.Arn": TABLE,
    "Initiator.Arn": INITIATOR,
    "AWS::Partition": "aws",
    "AWS::Region": "us-east-1",
    "AWS::AccountId": "000000000000",
    "AWS::StackName": "fedgrass",
    "ServerAppImages.Arn": "arn:aws:ecr:us-east-1:000000000000:repository/images",
    "ServerAppLog.Arn": "arn:aws:logs:us-east-1:000000000000:log-group:log:*",
}
SHA256 = "0" * 64
DOCKERFILE = PROJECT / "provisioning" / "Dockerfile"


def resources() -> dict[str, Any]:
    return {name: one for name, one in template()["Resources"].items() if name.startswith("ServerApp")}


def filled(node: Any) -> Any:
    """Return a part of the template with the names of resources filled in."""
    if isinstance(node, list):
        return [filled(one) for one in node]
    if not isinstance(node, dict):
        return node
    if len(node) == 1:
        ((function, given),) = node.items()
        if function == "Fn::GetAtt":
            return NAMES[".".join(given) if isinstance(given, list) else given]
        if function == "Ref":
            return NAMES[given]
        if function == "Fn::Sub":
            return re.sub(r"\$\{([^}]+)\}", lambda found: NAMES[found[1]], given)
    return {key: filled(value) for key, value in node.items()}


def statements(role: str) -> list[Statement]:
    policies = resources()[role]["Properties"]["Policies"]
    return [filled(one) for policy in policies for one in policy["PolicyDocument"]["Statement"]]


def test_without_the_parameter_the_stack_has_none_of_it() -> None:
    whole = template()
    assert whole["Parameters"]["ServerAppImageTag"]["Default"] == ""
    assert {one["Type"].rpartition("::")[0] for one in resources().values()} >= {"AWS::ECS", "AWS::ECR"}
    assert {name: one.get("Condition") for name, one in resources().items()} == dict.fromkeys(
        resources(), "HasServerApp"
    )
    for name, one in whole["Outputs"].items():
        assert (one.get("Condition") == "HasServerApp") == name.startswith("ServerApp"), name
    for name, one in whole["Resources"].items():  # a reference to what does not exist fails the deployment
        assert name in resources() or "ServerApp" not in str(one), name


@pytest.mark.parametrize(
    "need",
    [
        Need("cloudformation:DescribeStacks", STACK),
        Need("lambda:InvokeFunction", INITIATOR),
        Need("dynamodb:GetItem", TABLE),
        Need("dynamodb:Query", TABLE),
        Need("s3:ListBucket", BUCKET),
        *(
            Need("s3:GetObject", f"{BUCKET}/{key}")
            for key in (
                object_keys.server_app_files("nightly"),
                object_keys.server_app("nightly"),
                object_keys.content("nightly", SHA256),
                object_keys.messages("nightly", 3),
                object_keys.model("nightly", 3),
                object_keys.update("press:1", "nightly", 3, 1),
            )
        ),
        *(
            Need("s3:PutObject", f"{BUCKET}/{key}")
            for key in (
                object_keys.server_app("nightly"),
                object_keys.content("nightly", SHA256),
                object_keys.messages("nightly", 3),
            )
        ),
    ],
    ids=lambda need: f"{need.action} {need.resource.rpartition(':')[2]}",
)
def test_a_server_app_may_do_what_it_needs(need: Need) -> None:
    assert missing(statements("ServerAppRole"), [need]) == []


@pytest.mark.parametrize(
    "need",
    [
        *(
            Need("s3:PutObject", f"{BUCKET}/{key}")
            for key in (
                object_keys.model("nightly", 0),
                object_keys.frozen("nightly"),
                object_keys.latest_model("digits"),
                object_keys.update("press-1", "nightly", 3, 1),
                object_keys.run_manifest("nightly"),
                object_keys.round_manifest("nightly", 3),
                object_keys.cohort("nightly", 3, 1),
                object_keys.statistics("nightly", 3),
                object_keys.server_app_files("nightly"),  # no app may replace itself, or that of another run
                "components/com.fedgrass.Trainer/1.0.0/trainer.zip",
                "strategies/own.py",
            )
        ),
        Need("s3:DeleteObject", f"{BUCKET}/{object_keys.content('nightly', SHA256)}"),
        Need("s3:GetObject", f"{BUCKET}/components/com.fedgrass.Trainer/1.0.0/trainer.zip"),
        Need("s3:GetObject", f"{BUCKET}/drafts/nightly/1-1/lease/model.safetensors"),
        *(Need(f"dynamodb:{action}Item", TABLE) for action in ("Put", "Update", "Delete")),
        Need("dynamodb:GetItem", TABLE.replace("rounds", "devices")),
        Need("lambda:InvokeFunction", INITIATOR.replace("initiator", "averager")),
        Need("lambda:UpdateFunctionCode", INITIATOR),
        Need(
            "iot:Publish", "arn:aws:iot:us-east-1:000000000000:topic/fedgrass/garden/clients/press-1/announce"
        ),
        Need("sqs:SendMessage", "arn:aws:sqs:us-east-1:000000000000:replies"),
        Need("ecs:RunTask", "arn:aws:ecs:us-east-1:000000000000:task-definition/server-app:1"),
        Need("iam:PassRole", "arn:aws:iam::000000000000:role/server-app"),
        Need("cloudformation:DescribeStacks", STACK.replace("fedgrass", "another")),
    ],
    ids=lambda need: f"{need.action} {need.resource.rpartition(':')[2]}",
)
def test_a_server_app_may_do_nothing_else(need: Need) -> None:
    assert not allows(statements("ServerAppRole"), need)


def test_fargate_may_only_pull_this_image_and_write_this_log() -> None:
    allowed = {
        (action, str(one["Resource"])) for one in statements("ServerAppStartRole") for action in many(one)
    }
    anywhere = {action for action, resource in allowed if resource == "*"}
    assert anywhere == {"ecr:GetAuthorizationToken"}
    assert {resource for _, resource in allowed} == {
        "*",
        NAMES["ServerAppImages.Arn"],
        NAMES["ServerAppLog.Arn"],
    }


def many(statement: Statement) -> list[str]:
    action = statement["Action"]
    return action if isinstance(action, list) else [action]


def test_only_tasks_of_this_account_may_assume_the_roles() -> None:
    for role in ("ServerAppRole", "ServerAppStartRole"):
        (trust,) = resources()[role]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        assert trust["Principal"] == {"Service": "ecs-tasks.amazonaws.com"}
        assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}


def test_the_container_is_unprivileged_reads_only_and_listens_on_nothing() -> None:
    task = resources()["ServerAppTask"]["Properties"]
    (container,) = task["ContainerDefinitions"]
    assert (task["NetworkMode"], task["RequiresCompatibilities"]) == ("awsvpc", ["FARGATE"])
    assert container["Name"] == CONTAINER
    assert container["ReadonlyRootFilesystem"] is True
    assert container["Privileged"] is False
    assert "PortMappings" not in container
    assert "Environment" not in container  # no secret, and nothing that a container would have to be told


def test_the_output_of_the_network_has_the_parameters_in_the_order_in_which_it_is_read() -> None:
    text = template()["Outputs"]["ServerAppNetwork"]["Value"]["Fn::Sub"]
    values = {
        "ServerAppSubnets": "subnet-1,subnet-2",
        "ServerAppSecurityGroups": "sg-1",
        "ServerAppPublicIp": "yes",
    }
    given = re.sub(r"\$\{([^}]+)\}", lambda found: values[found[1]], text)
    assert Network.from_output(given) == Network(["subnet-1", "subnet-2"], ["sg-1"], public_ip=True)


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their words, continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line and not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [(name, words) for name, _, words in (line.partition(" ") for line in text.splitlines())]


def words_of(name: str) -> list[str]:
    return [words for found, words in instructions() if found == name]


def test_the_image_is_pinned_runs_as_an_ordinary_user_and_starts_fedgrass() -> None:
    for base in words_of("FROM"):
        assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+( AS build)?", base), base
    assert words_of("USER") == ["10001"]
    assert instructions()[-1] == ("ENTRYPOINT", '["fedgrass"]')
    names = [name for name, _ in instructions()]
    assert names.index("USER") > max(place for place, name in enumerate(names) if name == "RUN")


def test_the_writable_folder_of_the_image_is_the_volume_of_the_task() -> None:
    (container,) = resources()["ServerAppTask"]["Properties"]["ContainerDefinitions"]
    (mounted,) = [point["ContainerPath"] for point in container["MountPoints"]]
    assert words_of("VOLUME") == [mounted] == [words_of("WORKDIR")[-1]]
    environment = dict(pair.split("=") for pair in words_of("ENV")[0].split())
    assert (environment["HOME"], environment["TMPDIR"]) == (mounted, mounted)
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"


def context() -> Iterator[str]:
    """Yield the files and folders that Dockerfile.dockerignore admits."""
    lines = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in lines  # all others are left out
    yield from (line.removeprefix("!/") for line in lines if line.startswith("!/"))


def named(pyproject: str) -> Iterable[str]:
    """Return the sources that pyproject.toml puts into the wheel."""
    (forced,) = re.findall(r"force-include\]\n((?:\".*\n)+)", pyproject)
    (packages,) = re.findall(r"^packages = \[(.*)\]$", pyproject, re.MULTILINE)
    return [*re.findall(r'^"([^"]+)" =', forced, re.MULTILINE), *re.findall(r'"([^"]+)"', packages)]


def test_the_image_is_built_from_all_sources_of_the_wheel_and_from_nothing_else() -> None:
    sources = {*named((PROJECT / "pyproject.toml").read_text()), "pyproject.toml", "README.md", "LICENSE"}
    assert set(context()) == sources
    assert all((PROJECT / name).exists() for name in sources)


IMPORTED = """
import sys
from importlib.metadata import packages_distributions
import fedgrass.console.main, fedgrass.console.flower.detached_run
from fedgrass.console.flower import fleet_grid, server_app_run, strategy_checkpoint
of = packages_distributions()
print(*{name for module in sys.modules for name in of.get(module.partition(".")[0], [])})
"""
# botocore uses it where it is; setuptools imports a part of itself into every process.
ELSEWHERE = {"awscrt", "fedgrass", "setuptools"}
# They share the namespace `google` with protobuf.
ELSEWHERE |= {"google-auth", "googleapis-common-protos"}


def installed_with(extras: tuple[str, ...]) -> set[str]:
    """Return the distributions that pip installs with fedgrass and some of its extras."""
    found, waiting = set[str](), [("fedgrass", extras)]
    while waiting:
        name, wanted = waiting.pop()
        for text in requires(name) or []:
            one = Requirement(text)
            applies = (
                [one.marker.evaluate({"extra": extra}) for extra in (*wanted, "")] if one.marker else [True]
            )
            if any(applies) and canonicalize_name(one.name) not in found:
                found.add(canonicalize_name(one.name))
                waiting.append((one.name, tuple(one.extras)))
    return found


@pytest.mark.slow
def test_the_command_of_the_container_imports_what_the_image_has_and_nothing_else() -> None:
    (install,) = re.findall(r"\$\{wheel\}\[([a-z,]+)\]", DOCKERFILE.read_text())
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], capture_output=True, text=True, timeout=100, check=True, cwd=PROJECT
    )
    used = {canonicalize_name(name) for name in done.stdout.split()}
    assert {"boto3", "flwr", "rich"} <= used
    assert used - installed_with(tuple(install.split(","))) <= ELSEWHERE

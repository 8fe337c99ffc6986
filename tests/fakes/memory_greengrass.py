"""GreengrassV2 and the thing registry in memory, behind real boto3 clients, for plans of many things.

boto3 validates every request against the service's model and paginates; the request is then answered here
instead of being sent. ``tests/fakes/stubbed_aws.py`` scripts single calls, which 3,000 things would make
unreadable.
"""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import boto3
import botocore.session
import yaml

from tests.fakes.stubbed_aws import ACCOUNT, MODELS, REGION

_PAGE = 100


class MemoryGreengrass:
    """An account with things, groups, component versions and deployments."""

    def __init__(self) -> None:
        session = botocore.session.get_session()
        session.register_component("data_loader", MODELS)
        self._session = boto3.Session(
            botocore_session=session,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",  # noqa: S106 - no request is sent
            region_name=REGION,
        )
        self._clients: dict[str, Any] = {}
        self._numbers = itertools.count(1)
        self.groups: dict[str, set[str]] = {}
        self.parents: dict[str, str] = {}
        self.things: set[str] = set()
        self.versions: dict[str, list[str]] = {}
        self.deployments: dict[str, dict[str, Any]] = {}  # by id
        self.latest: dict[str, str] = {}  # id by target
        self.lite: set[str] = set()
        self.calls: Counter[str] = Counter()
        self.refusals: dict[str, list[str]] = {}  # error codes of the next calls of an operation
        self.finishes: Callable[[str], str] = lambda _target: "COMPLETED"

    def client(self, service: str) -> Any:
        """Return the client of a service."""
        if service not in self._clients:
            make: Any = self._session.client
            client = make(service)
            events = client.meta.events
            events.register("before-parameter-build", _keep_parameters)
            events.register("before-call", self._answer)
            self._clients[service] = client
        return self._clients[service]

    def add_group(self, name: str, things: set[str], components: Mapping[str, Any] | None = None) -> None:
        """Add a thing group, with a deployment of ``components`` if given."""
        self.groups[name] = things
        self.things |= things
        if components is not None:
            self._create(targetArn=self.group_arn(name), components=components, deploymentName=name)

    def group_arn(self, name: str) -> str:
        return f"arn:aws:iot:{REGION}:{ACCOUNT}:thinggroup/{name}"

    def thing_arn(self, name: str) -> str:
        return f"arn:aws:iot:{REGION}:{ACCOUNT}:thing/{name}"

    def deployed(self, target: str) -> dict[str, Any]:
        """Return the components of the latest deployment to a target; empty if there is none."""
        found = self.deployments.get(self.latest.get(target, ""), {})
        components: dict[str, Any] = found.get("components", {})
        return components

    def _answer(self, model: Any, context: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        name = model.name
        self.calls[name] += 1
        metadata = {"ResponseMetadata": {"RequestId": "1", "HTTPStatusCode": 200}}
        if waiting := self.refusals.get(name):
            return _error(waiting.pop(0), metadata)
        parameters = {name: value for name, value in context["parameters"].items() if name != "clientToken"}
        answer = getattr(self, f"_{name}")(**parameters)
        if answer is None:
            return _error("ResourceNotFoundException", metadata)
        return SimpleNamespace(status_code=200), {**answer, **metadata}

    # ------------------------------------------------------------ operations, by their names

    def _GetCallerIdentity(self) -> dict[str, Any]:  # noqa: N802 - of AWS, as below
        return {"Account": ACCOUNT, "Arn": f"arn:aws:iam::{ACCOUNT}:user/operator", "UserId": "U"}

    def _DescribeThingGroup(self, thingGroupName: str) -> dict[str, Any] | None:  # noqa: N802, N803
        if thingGroupName not in self.groups:
            return None
        parents: list[dict[str, str]] = []
        name = thingGroupName
        while name := self.parents.get(name, ""):
            parents.insert(0, {"groupName": name, "groupArn": self.group_arn(name)})
        return {
            "thingGroupName": thingGroupName,
            "thingGroupArn": self.group_arn(thingGroupName),
            "thingGroupMetadata": {"rootToParentThingGroups": parents},
        }

    def _ListThingGroups(self, **_: Any) -> dict[str, Any]:  # noqa: N802
        return {"thingGroups": [{"groupName": name} for name in self.groups]}

    def _ListThingGroupsForThing(self, thingName: str, **_: Any) -> dict[str, Any] | None:  # noqa: N802, N803
        if thingName not in self.things:
            return None
        names = [name for name, things in self.groups.items() if thingName in things]
        return {"thingGroups": [{"groupName": name, "groupArn": self.group_arn(name)} for name in names]}

    def _ListThingsInThingGroup(  # noqa: N802
        self,
        thingGroupName: str,  # noqa: N803
        nextToken: str = "0",  # noqa: N803
        *,
        recursive: bool = False,
        **_: Any,
    ) -> dict[str, Any]:
        below = [name for name, parent in self.parents.items() if parent == thingGroupName and recursive]
        things = set(self.groups[thingGroupName]).union(*(self.groups[name] for name in below))
        return _page("things", sorted(things), nextToken)

    def _ListCoreDevices(self, thingGroupArn: str, **_: Any) -> dict[str, Any]:  # noqa: N802, N803
        members = self.groups[thingGroupArn.rpartition("/")[2]] & self.lite
        return {"coreDevices": [{"coreDeviceThingName": name, "status": "HEALTHY"} for name in members]}

    def _ListComponentVersions(self, arn: str, **_: Any) -> dict[str, Any] | None:  # noqa: N802
        name = arn.rpartition(":")[2]
        if name not in self.versions:
            return None
        listed = [
            {"componentName": name, "componentVersion": version, "arn": f"{arn}:versions:{version}"}
            for version in self.versions[name]
        ]
        return {"componentVersions": listed}

    def _CreateComponentVersion(self, inlineRecipe: bytes) -> dict[str, Any]:  # noqa: N802, N803
        recipe = yaml.safe_load(inlineRecipe)
        name, version = recipe["ComponentName"], recipe["ComponentVersion"]
        self.versions.setdefault(name, []).insert(0, version)
        return {
            "arn": "arn", "componentName": name, "componentVersion": version,
            "creationTimestamp": 0, "status": {"componentState": "REQUESTED"},
        }  # fmt: skip

    def _DescribeComponent(self, arn: str) -> dict[str, Any] | None:  # noqa: N802
        name, _, version = arn.partition(":components:")[2].partition(":versions:")
        if version not in self.versions.get(name, []):
            return None
        return {"arn": arn, "status": {"componentState": "DEPLOYABLE"}}

    def _CreateDeployment(self, **given: Any) -> dict[str, Any] | None:  # noqa: N802
        for name, component in given["components"].items():
            if component["componentVersion"] not in self.versions.get(name, []):
                return None
            json.loads(component.get("configurationUpdate", {}).get("merge", "{}"))
        return {"deploymentId": self._create(**given)}

    def _create(self, **given: Any) -> str:
        number = next(self._numbers)
        deployment = f"deployment-{number:06}"
        target = given["targetArn"]
        self.deployments[deployment] = {
            **given, "deploymentId": deployment, "creationTimestamp": number, "revisionId": str(number),
            "deploymentStatus": "ACTIVE", "iotJobId": deployment,
        }  # fmt: skip
        self.latest[target] = deployment
        return deployment

    def _status(self, deployment: Mapping[str, Any]) -> str:
        target: str = deployment["targetArn"]
        if ":thinggroup/" in target:
            return "ACTIVE"
        # A job is completed when its only device has ended it, in whichever state.
        return "ACTIVE" if self.finishes(target.rpartition("/")[2]) == "ACTIVE" else "COMPLETED"

    def _DescribeJob(self, jobId: str) -> dict[str, Any]:  # noqa: N802, N803
        thing = self.deployments[jobId]["targetArn"].rpartition("/")[2]
        kind = {"ACTIVE": "Queued", "COMPLETED": "Succeeded", "FAILED": "Failed"}[self.finishes(thing)]
        return {"job": {"jobId": jobId, "jobProcessDetails": {f"numberOf{kind}Things": 1}}}

    def _ListJobExecutionsForJob(self, jobId: str, **_: Any) -> dict[str, Any]:  # noqa: N802, N803
        target = self.deployments[jobId]["targetArn"]
        status = {"COMPLETED": "SUCCEEDED"}.get(self.finishes(target.rpartition("/")[2]), "FAILED")
        return {"executionSummaries": [{"thingArn": target, "jobExecutionSummary": {"status": status}}]}

    def _ListEffectiveDeployments(self, coreDeviceThingName: str, **_: Any) -> dict[str, Any]:  # noqa: N802, N803
        deployment = self.latest[self.thing_arn(coreDeviceThingName)]
        return {"effectiveDeployments": [{"deploymentId": deployment, "reason": "the disk is full"}]}

    def _GetDeployment(self, deploymentId: str) -> dict[str, Any]:  # noqa: N802, N803
        found = self.deployments[deploymentId]
        return {**found, "deploymentStatus": self._status(found)}

    def _ListDeployments(  # noqa: N802
        self,
        targetArn: str = "",  # noqa: N803
        historyFilter: str = "LATEST_ONLY",  # noqa: N803
        nextToken: str = "0",  # noqa: N803
        **_: Any,
    ) -> dict[str, Any]:
        assert historyFilter == "LATEST_ONLY"
        found = [self.deployments[one] for target, one in self.latest.items() if targetArn in ("", target)]
        names = ("targetArn", "deploymentId", "deploymentName", "creationTimestamp")
        listed = [
            {**{name: one[name] for name in names if name in one}, "deploymentStatus": self._status(one)}
            for one in found
        ]
        return _page("deployments", listed, nextToken)


def _keep_parameters(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    context["parameters"] = dict(params)


def _page(name: str, entries: list[Any], token: str) -> dict[str, Any]:
    start = int(token)
    more = {"nextToken": str(start + _PAGE)} if start + _PAGE < len(entries) else {}
    return {name: entries[start : start + _PAGE], **more}


def _error(code: str, metadata: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return SimpleNamespace(status_code=400), {"Error": {"Code": code, "Message": "no"}, **metadata}

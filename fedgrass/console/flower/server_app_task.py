"""The ECS task in which a ServerApp runs on AWS Fargate: its start, and how the operator follows it.

template.yaml describes the task, if the parameter ServerAppImageTag is set. Each run of a ServerApp is one
task, whose image has ``fedgrass`` as its entry point and gets ``flower serve RUN`` as its command.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from fedgrass.console.aws_clients import Clients
from fedgrass.console.stack import StackError
from fedgrass.federation.errors import SettingsError

CONTAINER = "server-app"  # as in template.yaml


@dataclass(frozen=True)
class Network:
    """Where the containers run; see the parameters of template.yaml."""

    subnets: list[str]
    security_groups: list[str]
    public_ip: bool

    @classmethod
    def from_output(cls, text: str) -> "Network":
        """Return the network that the stack's output ServerAppNetwork describes.

        Raises:
            SettingsError: the stack has no subnets for ServerApps.
        """
        subnets, _, rest = text.partition(";")
        groups, _, public = rest.partition(";")
        if not subnets:
            message = (
                "the stack has no subnets for containers: give them once by `fedgrass deploy cloud"
                " --parameter ServerAppSubnets=SUBNET,...`, and ServerAppPublicIp=yes where they have no NAT"
                " gateway"
            )
            raise SettingsError(message)
        return cls(subnets.split(","), groups.split(",") if groups else [], public == "yes")

    @property
    def configuration(self) -> dict[str, Any]:
        """The network configuration of ``run_task``."""
        return {
            "awsvpcConfiguration": {
                "subnets": self.subnets,
                "securityGroups": self.security_groups,
                "assignPublicIp": "ENABLED" if self.public_ip else "DISABLED",
            }
        }


def has_tasks(outputs: Mapping[str, str]) -> bool:
    """Return whether a stack can run ServerApps in containers."""
    return "ServerAppTask" in outputs


class ServerAppTasks:
    """The tasks of a stack's ServerApps.

    Args:
        clients: returns the boto3 client of a service.
        stack: name of the stack.
        outputs: of the stack.

    Raises:
        SettingsError: the stack was deployed without containers for ServerApps, or without their subnets.
    """

    def __init__(self, clients: Clients, stack: str, outputs: Mapping[str, str]) -> None:
        if not has_tasks(outputs):
            message = (
                f"the stack {stack!r} has no containers for ServerApps: deploy them by `fedgrass deploy cloud"
                " --parameter ServerAppImageTag=1 --parameter ServerAppSubnets=SUBNET,...`, and push the"
                " image (docs/flower.md)"
            )
            raise SettingsError(message)
        self._ecs = clients("ecs")
        self._stack, self._outputs = stack, outputs
        self._network = Network.from_output(outputs["ServerAppNetwork"])

    def running(self, run: str) -> list[str]:
        """Return the ARNs of the tasks of a run that have been started and have not stopped."""
        found = self._ecs.list_tasks(
            cluster=self._outputs["ServerAppCluster"], startedBy=run, desiredStatus="RUNNING"
        )
        return list(found["taskArns"])

    def start(self, run: str) -> str:
        """Start the task of a run, and return its ARN.

        Raises:
            SettingsError: the ServerApp of the run is running already.
            StackError: ECS has no place for the task.
        """
        if running := self.running(run):
            message = (
                f"the ServerApp of the run {run!r} is running already, as {running[0]}: wait for its end, or"
                f" end the run by `fedgrass run cancel {run}`"
            )
            raise SettingsError(message)
        command = ["flower", "serve", run, "--stack", self._stack]
        answer = self._ecs.run_task(
            cluster=self._outputs["ServerAppCluster"],
            taskDefinition=self._outputs["ServerAppTask"],
            launchType="FARGATE",
            count=1,
            clientToken=uuid4().hex,  # botocore repeats a request whose response was lost
            startedBy=run,
            networkConfiguration=self._network.configuration,
            overrides={"containerOverrides": [{"name": CONTAINER, "command": command}]},
        )
        if not answer["tasks"]:
            reasons = "; ".join(
                f"{one.get('reason', 'no reason')} {one.get('detail', '')}".strip()
                for one in answer["failures"]
            )
            message = f"ECS did not start the ServerApp of the run {run!r}: {reasons or 'it gave no reason'}"
            raise StackError(message)
        return str(answer["tasks"][0]["taskArn"])

    def advice(self, run: str, task: str) -> list[str]:
        """Return lines on how to follow, end and resume a detached ServerApp."""
        stack = "" if self._stack == "fedgrass" else f" --stack {self._stack}"
        stream = f"run/{CONTAINER}/{task.rpartition('/')[2]}"
        group = self._outputs["ServerAppLogGroup"]
        return [
            f"the ServerApp of the run {run!r} starts on Fargate, as {task}",
            f"  rounds:  fedgrass run status {run}{stack}",
            f"  log:     aws logs tail {group} --follow --log-stream-names {stream}",
            f"  end:     fedgrass run cancel {run}{stack}",
            f"  resume:  fedgrass flower resume {run} --detach{stack}",
        ]

"""The request and the outcome of a deployment."""

import asyncio
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class DeploymentStatus(StrEnum):
    """The status of a deployment, as the Greengrass IPC model names it."""

    IN_PROGRESS = "IN_PROGRESS"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class DeploymentOutcome(StrEnum):
    """The detailed status of a deployment that has ended, as the Greengrass IPC model names it."""

    NONE = ""
    SUCCESSFUL = "SUCCESSFUL"
    NO_STATE_CHANGE = "FAILED_NO_STATE_CHANGE"
    ROLLBACK_NOT_REQUESTED = "FAILED_ROLLBACK_NOT_REQUESTED"
    ROLLBACK_COMPLETE = "FAILED_ROLLBACK_COMPLETE"


@dataclass(frozen=True)
class ComponentSource:
    """A component to deploy: recipe, artifacts, and what is merged into its configuration."""

    recipe: Path
    artifacts: Path
    """A folder with <component>/<version>/<file>, or with the files themselves."""
    configuration: Mapping[str, object] = field(default_factory=dict)
    is_local: bool = False
    """Whether this is a local deployment, as by ``ggl-cli``, and not one of the cloud."""


@dataclass(eq=False)
class Deployment:
    """The record of one deployment."""

    identifier: str = field(default_factory=lambda: str(uuid.uuid4()))
    created_at: float = field(default_factory=time.time)
    components: list[str] = field(default_factory=list)
    status: DeploymentStatus = DeploymentStatus.IN_PROGRESS
    outcome: DeploymentOutcome = DeploymentOutcome.NONE
    reason: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def succeed(self) -> None:
        """Record success."""
        self.status, self.outcome = DeploymentStatus.SUCCEEDED, DeploymentOutcome.SUCCESSFUL
        self.ended.set()

    def fail(self, outcome: DeploymentOutcome, reason: str) -> None:
        """Record failure, with its reason and whether the previous components were restored."""
        self.status, self.outcome, self.reason = DeploymentStatus.FAILED, outcome, reason
        self.ended.set()

    def cancel(self, reason: str) -> None:
        """Record that a later deployment has superseded this one."""
        self.status, self.reason = DeploymentStatus.CANCELED, reason
        self.ended.set()

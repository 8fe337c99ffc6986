"""What deployments ask for, and what became of them."""

import asyncio
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class DeploymentStatus(StrEnum):
    """How a deployment stands, in the words of the Greengrass IPC model."""

    IN_PROGRESS = "IN_PROGRESS"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class DeploymentOutcome(StrEnum):
    """How a deployment ended, in the words of the Greengrass IPC model."""

    NONE = ""
    SUCCESSFUL = "SUCCESSFUL"
    NO_STATE_CHANGE = "FAILED_NO_STATE_CHANGE"
    ROLLBACK_NOT_REQUESTED = "FAILED_ROLLBACK_NOT_REQUESTED"
    ROLLBACK_COMPLETE = "FAILED_ROLLBACK_COMPLETE"


@dataclass(frozen=True)
class ComponentSource:
    """A component to deploy: its recipe, where its artifacts lie, what is merged into its configuration."""

    recipe: Path
    artifacts: Path
    """Holds <component>/<version>/<file>."""
    configuration: Mapping[str, object] = field(default_factory=dict)
    is_local: bool = False
    """Whether it comes from a local deployment, as `ggl-cli` makes it, and not from the cloud."""


@dataclass(eq=False)
class Deployment:
    """One deployment from its beginning on."""

    identifier: str = field(default_factory=lambda: str(uuid.uuid4()))
    created_at: float = field(default_factory=time.time)
    components: list[str] = field(default_factory=list)
    status: DeploymentStatus = DeploymentStatus.IN_PROGRESS
    outcome: DeploymentOutcome = DeploymentOutcome.NONE
    reason: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def succeed(self) -> None:
        """What was asked for is there."""
        self.status, self.outcome = DeploymentStatus.SUCCEEDED, DeploymentOutcome.SUCCESSFUL
        self.ended.set()

    def fail(self, outcome: DeploymentOutcome, reason: str) -> None:
        """It did not come about; `outcome` says what became of what was there before."""
        self.status, self.outcome, self.reason = DeploymentStatus.FAILED, outcome, reason
        self.ended.set()

    def cancel(self, reason: str) -> None:
        """A later deployment has taken its place."""
        self.status, self.reason = DeploymentStatus.CANCELED, reason
        self.ended.set()

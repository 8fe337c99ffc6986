"""A sink for SageMaker Model Registry: a package per model, which refers to the file in the bucket.

Written after the API's description in botocore, whose stubs the tests use: it was not run against AWS.
"""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from fedgrass.console.aws_clients import Clients
from fedgrass.console.tracking.tracked_run import TrackedModel, TrackedRound, TrackedRun
from fedgrass.console.tracking.tracking_sink import Recorded

_LONGEST_VALUE = 256  # characters of a metadata property
_LONGEST_GROUP = 63


class SageMakerRegistry:
    """The sink ``sagemaker:GROUP``: the models of a run, without the figures of its rounds.

    Packages wait for a manual approval. Without a GROUP, each task has one: ``<fleet>-<task>``.
    """

    def __init__(self, target: str, clients: Clients) -> None:
        self.name = f"sagemaker:{target}"
        self._group = target
        self._clients = clients
        self._tracked: TrackedRun | None = None

    @property
    def _sagemaker(self) -> Any:
        return self._clients("sagemaker")

    def begin(self, tracked: TrackedRun) -> Recorded:
        """Return which of the run's models the group has; see ``Sink``."""
        self._tracked = tracked
        return Recorded(models=frozenset(self._registered(tracked)))

    def add_round(self, _: TrackedRound) -> bool:
        """Ignore the figures: a registry has only models; see ``Sink``."""
        return False

    def add_model(self, model: TrackedModel) -> bool:
        """Create the model's package, and the group if it is missing; see ``Sink``."""
        tracked = self._tracked
        if tracked is None:
            return False
        group = self._group_of(tracked)
        if not self._exists(group):
            self._sagemaker.create_model_package_group(
                ModelPackageGroupName=group,
                ModelPackageGroupDescription=(
                    f"Models of the task {tracked.run.settings.task} of the fleet {tracked.fleet}"
                ),
            )
        lineage = model.lineage(tracked)
        self._sagemaker.create_model_package(
            ModelPackageGroupName=group,
            ModelPackageDescription=_description(tracked, model.number),
            ModelApprovalStatus="PendingManualApproval",
            SourceUri=model.uri,
            CustomerMetadataProperties={name: value[:_LONGEST_VALUE] for name, value in lineage.items()},
            # The same for every repetition: AWS answers it with the package that it has made.
            ClientToken=sha256(_description(tracked, model.number).encode()).hexdigest()[:32],
        )
        return True

    def update(self, _: TrackedRun) -> None:
        """Do nothing: a package does not depend on the state of its run; see ``Sink``."""

    def close(self) -> None:
        """Do nothing: the client is shared; see ``Sink``."""

    def _group_of(self, tracked: TrackedRun) -> str:
        return self._group or tracked.registry_name[:_LONGEST_GROUP].rstrip("-")

    def _exists(self, group: str) -> bool:
        pages = self._sagemaker.get_paginator("list_model_package_groups").paginate(NameContains=group)
        return any(
            found["ModelPackageGroupName"] == group
            for page in pages
            for found in page["ModelPackageGroupSummaryList"]
        )

    def _registered(self, tracked: TrackedRun) -> Iterator[int]:
        """Yield the numbers of the run's models in the group, which their descriptions contain."""
        group = self._group_of(tracked)
        if not self._exists(group):
            return
        pages = self._sagemaker.get_paginator("list_model_packages").paginate(ModelPackageGroupName=group)
        start, _, end = _description(tracked, 0).partition("model 0 ")
        for page in pages:
            for found in page["ModelPackageSummaryList"]:
                text = found.get("ModelPackageDescription", "")
                number, _, rest = text.removeprefix(f"{start}model ").partition(" ")
                if text.startswith(f"{start}model ") and rest == end and number.isdecimal():
                    yield int(number)


def _description(tracked: TrackedRun, number: int) -> str:
    return f"fedgrass model {number} of {tracked.id}"

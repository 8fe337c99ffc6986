"""A sink for MLflow: a run's settings and figures in an experiment, its models in the model registry.

The client is ``mlflow-skinny``, which has no server, no pandas and no pyarrow. It honours MLflow's own
environment variables, such as MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_TOKEN and MLFLOW_EXPERIMENT_NAME.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from fedgrass.console.aws_clients import Clients
from fedgrass.console.tracking.tracked_run import (
    TrackedModel,
    TrackedRound,
    TrackedRun,
    chosen_settings,
)
from fedgrass.console.tracking.tracking_sink import Recorded
from fedgrass.federation.runs import RunState

_EXPERIMENT = "fedgrass"
_ID = "fedgrass.id"  # tag of a run: ``TrackedRun.id``
_MARK = "round/attempt"  # every closed round has it
_STATUS: Mapping[RunState, str] = {
    RunState.RUNNING: "RUNNING",
    RunState.PAUSED: "RUNNING",
    RunState.SUCCEEDED: "FINISHED",
    RunState.FAILED: "FAILED",
    RunState.CANCELLED: "KILLED",
}
_LONGEST_PARAMETER = 6000  # characters
_MOST_PARAMETERS = 100  # per request
_PAGE = 1000
_RESERVED_ALIAS = re.compile(r"v\d+|latest", re.IGNORECASE)  # MLflow refuses these
_UNSUITABLE = re.compile(r"[^A-Za-z0-9_./ :-]")  # in the name of a metric
# By its own defaults the client waits minutes for a server that is gone, reports its use to MLflow's makers,
# and prints to standard output, where `--output json` has its JSON.
_CLIENT_DEFAULTS = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class MlflowSink:
    """The sink ``mlflow:URL``, of one run.

    Abandoned attempts have no figures in MLflow: ``round/attempt`` of the closed one counts them.
    """

    def __init__(self, target: str, _clients: Clients) -> None:
        self.name = f"mlflow:{target}"
        self._url = target
        self._run_id = ""
        self._tracked: TrackedRun | None = None
        self._versions: dict[int, str] = {}  # in the registry, by the number of the model

    @cached_property
    def _client(self) -> Any:
        for name, value in _CLIENT_DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient  # noqa: PLC0415 - takes two seconds, and reads the environment above

        return MlflowClient(tracking_uri=self._url, registry_uri=self._url)

    def begin(self, tracked: TrackedRun) -> Recorded:
        """Find the run by its tag, or create it, with its settings; see ``Sink``."""
        self._tracked = tracked
        experiment = self._experiment()
        found = self._client.search_runs(
            [experiment], filter_string=f"tags.`{_ID}` = '{tracked.id}'", max_results=1
        )
        if found:
            self._run_id = found[0].info.run_id
            attempts = {
                (point.step, round(point.value))
                for point in self._client.get_metric_history(self._run_id, _MARK)
            }
            self._versions = dict(self._registered(tracked))
            return Recorded(attempts=frozenset(attempts), models=frozenset(self._versions))
        created = self._client.create_run(
            experiment,
            start_time=tracked.run.started_at,
            run_name=tracked.run.name,
            tags={
                _ID: tracked.id,
                "fedgrass.fleet": tracked.fleet,
                "fedgrass.stack": tracked.stack,
                "fedgrass.bucket": tracked.bucket,
                "fedgrass.task": tracked.run.settings.task,
            },
        )
        self._run_id = created.info.run_id
        for some in _batches(_parameters(tracked), _MOST_PARAMETERS):
            self._client.log_batch(self._run_id, params=some)
        self._versions = dict(self._registered(tracked))
        return Recorded(models=frozenset(self._versions))

    def add_round(self, found: TrackedRound) -> bool:
        """Log the figures of a closed round, in one request, at the time of its end; see ``Sink``."""
        from mlflow.entities import Metric  # noqa: PLC0415 - as above

        if not found.is_closed:
            return False
        number = found.record.round.number
        metrics = [
            Metric(_UNSUITABLE.sub("_", name), value, found.ended_at, number)
            for name, value in found.figures.items()
        ]
        self._client.log_batch(self._run_id, metrics=metrics)
        return True

    def add_model(self, model: TrackedModel) -> bool:
        """Register a model as a version that refers to the file in the bucket; see ``Sink``."""
        tracked = self._tracked
        if tracked is None:
            return False
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - as above

        try:
            self._client.create_registered_model(
                tracked.registry_name, description=f"Global models of the task {tracked.run.settings.task}"
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = self._client.create_model_version(
            tracked.registry_name,
            source=model.uri,
            run_id=self._run_id,
            tags=model.lineage(tracked),
            description=f"Model {model.number} of the run {tracked.run.name}",
        )
        self._versions[model.number] = version.version
        return True

    def update(self, tracked: TrackedRun) -> None:
        """Set the run's status, why it ended, and the aliases of its models; see ``Sink``."""
        run = tracked.run
        if run.reason:
            self._client.set_tag(self._run_id, "fedgrass.reason", run.reason)
        status = _STATUS[run.state]
        if status == "RUNNING":
            self._client.update_run(self._run_id, status=status)
        else:
            self._client.set_terminated(self._run_id, status=status, end_time=run.ended_at or None)
        for alias, number in tracked.aliases.items():
            if number in self._versions and not _RESERVED_ALIAS.fullmatch(alias):
                self._client.set_registered_model_alias(tracked.registry_name, alias, self._versions[number])

    def close(self) -> None:
        """Do nothing: each request has its own connection; see ``Sink``."""

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        identity: str = found.experiment_id if found else self._client.create_experiment(name)
        return identity

    def _registered(self, tracked: TrackedRun) -> Iterator[tuple[int, str]]:
        """Yield the numbers of the run's models that are in the registry, with their versions there."""
        token = None
        while True:
            page = self._client.search_model_versions(
                f"name = '{tracked.registry_name}'", max_results=_PAGE, page_token=token
            )
            for version in page:
                if version.tags.get(_ID) == tracked.id:
                    yield int(version.tags["fedgrass.round"]), version.version
            token = page.token
            if not token:
                return


def _parameters(tracked: TrackedRun) -> list[Any]:
    from mlflow.entities import Param  # noqa: PLC0415 - as above

    settings = chosen_settings(tracked.run.settings)
    return [Param(_UNSUITABLE.sub("_", name), value[:_LONGEST_PARAMETER]) for name, value in settings.items()]


def _batches(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]

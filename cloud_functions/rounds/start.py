"""The start of a run: check its settings and its initial model, store the run, open its first round.

An initial model is read as a stream, so its size is not limited by the function's memory. Only a model that
is encoded for download, or copied from another run, is held in memory as a whole.
"""

import contextlib
from typing import NamedTuple

import msgspec

from cloud_functions.aggregation import guarded_strategy, whole_updates
from cloud_functions.aggregation.model_files import Fingerprint, fingerprint, whole
from cloud_functions.recovery import manifests
from cloud_functions.rounds import driver, reminders, shared_arrays
from cloud_functions.selection import candidate_search
from cloud_functions.services import Services
from cloud_functions.statistics.query_file import write_first_query
from fedgrass.federation import encodings, object_keys
from fedgrass.federation.aggregation import WholeStrategy
from fedgrass.federation.aggregation.buffered_settings import fleet_contradiction
from fedgrass.federation.errors import LostRace, NotYet, SettingsError
from fedgrass.federation.runs import Run, RunAction, RunState
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.settings_parser import check_training
from fedgrass.federation.statistics.statistics_query import StatisticsQuery
from fedgrass.federation.weights import sha256
from fedgrass.federation.weights.array_roles import update_layout
from fedgrass.federation.weights.tree_ensemble import TREE_ARRAYS


def start_run(  # noqa: PLR0913 - what a run is started from, and for whom
    services: Services,
    name: str,
    settings: RunSettings,
    continued_from: str = "",
    former: Run | None = None,
    *,
    by: str = "",
) -> Run:
    """Start a run whose initial model is in the bucket, and open its first round.

    A run of statistics, and one with a ServerApp, have no model; the latter waits for its ServerApp.
    Starting the same run with the same settings again changes nothing. ``continued_from`` is the key of the
    model of another run that was copied to the initial model, if any; ``former`` is that run; ``by`` is who
    starts the run, for its history.

    Returns:
        The run as it is after its first steps.

    Raises:
        SettingsError: the initial model or a device for the task is missing, or the name is taken.
        UpdateRefused: the initial model is not a file of finite weights.
    """
    if settings.statistics:
        statistics_run = _statistics_run(services, name, settings, settings.statistics)
        return _store_and_advance(services, statistics_run, by)
    if settings.has_server_app:
        return _store_and_advance(services, _server_app_run(services, name, settings), by)
    model = _read_initial(services, name)
    is_partial = settings.shared or settings.frozen_sha256
    frozen = shared_arrays.check(services, name, settings, model.layout, former) if is_partial else None
    strategy = guarded_strategy.load(settings)  # raises if a custom strategy is not deployed
    if isinstance(strategy, WholeStrategy) or TREE_ARRAYS.keys() <= model.layout.arrays.keys():
        whole_updates.check_start(services, name, settings, strategy, model)
    needs = guarded_strategy.training_needs(settings, strategy)
    check_training(settings, needs)
    updates = update_layout(model.layout, strategy.carried)
    encodings.file_layout(updates, settings.upload)  # raises if updates of this layout cannot be encoded
    if services.rounds.run(name) is None:
        cohort = check_candidates(services, settings)
        if isinstance(strategy, WholeStrategy):
            whole_updates.check_room(settings, strategy, model.layout, cohort)
    download = _write_for_download(services, name, settings, model)
    run = Run(
        name=name,
        state=RunState.RUNNING,
        settings=settings,
        started_at=services.now(),
        initial_sha256=model.sha256,
        initial_bytes=model.bytes,
        initial_download_sha256=download.sha256,
        initial_download_bytes=download.bytes,
        carries=strategy.carried,
        needs=needs,
        continued_from=continued_from,
        frozen=frozen,
    )
    return _store_and_advance(services, run, by)


def _statistics_run(services: Services, name: str, settings: RunSettings, query: StatisticsQuery) -> Run:
    """Return a run of statistics, with its query in place of an initial model. Raises SettingsError."""
    if services.rounds.run(name) is None:
        check_candidates(services, settings)
        manifests.check_not_lost(services, name)
    file = write_first_query(services, name, query)
    return Run(
        name=name,
        state=RunState.RUNNING,
        settings=settings,
        started_at=services.now(),
        initial_sha256=file.sha256,
        initial_bytes=file.bytes,
    )


def _server_app_run(services: Services, name: str, settings: RunSettings) -> Run:
    """Return a run with a ServerApp, which has its model. Raises SettingsError if no device has the task."""
    if services.rounds.run(name) is None:
        check_candidates(services, settings)
    return Run(
        name=name,
        state=RunState.RUNNING,
        settings=settings,
        started_at=services.now(),
        initial_sha256="",
        initial_bytes=0,
    )


def _store_and_advance(services: Services, run: Run, by: str) -> Run:
    """Store a new run and take its first steps. Raises SettingsError if another one has its name."""
    name, settings = run.name, run.settings
    run = msgspec.structs.replace(run, history=(RunAction(at=run.started_at, action="start", by=by),))
    manifests.check_not_lost(services, name)
    reminders.look_again_later(services, name)
    try:
        services.rounds.create_run(run)
    except LostRace as error:
        stored = services.rounds.run(name)
        if stored is None or stored.settings != settings:
            message = f"run {name!r} already exists with different settings: choose another name"
            raise SettingsError(message) from error
    with contextlib.suppress(NotYet):  # the run was started before, and an averager is working on it
        driver.advance(services, name)
    return services.rounds.run(name) or run


def check_candidates(services: Services, settings: RunSettings) -> int:
    """Check that the fleet has enough devices for a run; return how many a round would want.

    Raises:
        SettingsError: it has not.
    """
    found = candidate_search.survey(services, settings)
    if not found.count:
        raise SettingsError(candidate_search.why_none(services, settings))
    candidate_search.check_held_out(services, settings)
    candidate_search.check_metric(settings, found)
    if refusal := fleet_contradiction(settings, found.count):
        raise SettingsError(refusal)
    cohort = settings.cohort(found.count)
    minimum = settings.statistics.minimum_devices if settings.statistics else 0
    for field in ("threshold_count", "minimum_replies"):
        value = getattr(settings, field)
        if value is not None and value > cohort:
            named = "statistics.minimum_devices" if settings.statistics and value == minimum else field
            message = (
                f"the run's {named} is {value}, but a round would ask {cohort} of the "
                f"{found.count} devices that can do {settings.task!r}: lower it, or connect more devices"
            )
            raise SettingsError(message)
    return cohort


class _Download(NamedTuple):
    """The file that devices download instead of the model; empty if they download the model itself."""

    sha256: str = ""
    bytes: int = 0


def _read_initial(services: Services, name: str) -> Fingerprint:
    """Read the initial model of a run as a stream, and check that its values are finite.

    Raises:
        SettingsError: the initial model is missing.
        UpdateRefused: it is not a file of finite weights.
    """
    key = object_keys.model(name, 0)
    try:
        return fingerprint(services.bucket, key, check=True)
    except KeyError as error:
        message = (
            f"run {name!r} has no initial model: upload one to {key} first (`fedgrass run start` does with"
            " --model FILE), or continue from another run's (--continue-from RUN/ROUND)"
        )
        raise SettingsError(message) from error


def _write_for_download(
    services: Services, name: str, settings: RunSettings, model: Fingerprint
) -> _Download:
    """Write the initial model in the run's download encoding, if that differs from the model itself.

    Raises:
        SettingsError: the model is too large to be encoded by this function.
    """
    kind = settings.download_encoding
    if not encodings.is_encoded(model.layout, settings.download):
        return _Download()
    if model.bytes > services.largest_held:
        raise SettingsError(services.too_large(f"the run's download_encoding is {kind!r}", model.bytes))
    data = whole(services.bucket, object_keys.model(name, 0), model.bytes, model.version)
    encoded = encodings.encode_model(data, settings.download)
    stored = services.bucket.write_once(object_keys.encoded_model(name, 0, kind), encoded)
    return _Download(sha256(stored), len(stored))


def copy_to_initial(services: Services, source: str, name: str) -> None:
    """Copy the model of another run to the initial model of a run, unless it has already been copied.

    Raises:
        KeyError: the model does not exist.
        SettingsError: the run has a different initial model, or the model is too large to be copied here.
        UpdateRefused: the model is not a weights file.
    """
    target, found = object_keys.model(name, 0), fingerprint(services.bucket, source)
    if found.bytes > services.largest_held:
        raise SettingsError(services.too_large(f"{source} is copied to {target}", found.bytes))
    data = (
        None if services.bucket.exists(target) else whole(services.bucket, source, found.bytes, found.version)
    )
    if data is not None and services.bucket.write_over(target, data, None):
        return
    if fingerprint(services.bucket, target).sha256 != found.sha256:
        message = f"run {name!r} already has a different initial model: choose another name"
        raise SettingsError(message)

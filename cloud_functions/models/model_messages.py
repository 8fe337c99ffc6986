"""The message that describes the model of a round, as devices get it: from rows, or from manifests."""

from msgspec import UNSET

from cloud_functions.recovery import manifests
from cloud_functions.rounds.publish import describe_model, model_of
from cloud_functions.services import Services
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import NewModel
from fedgrass.federation.models.imported_model import LARGEST_IMPORT_RECORD, ImportedModel, decode_import
from fedgrass.federation.rounds import Round, State, Work
from fedgrass.federation.runs import Run


def known_model(services: Services, name: str, number: int) -> NewModel:
    """Return the message about the model ``name``/``number``, from rows, manifests or the import's record.

    Raises:
        SettingsError: there is no such model; the text has the reason.
    """
    run = services.rounds.run(name) or manifests.run_of(services, name)
    if run is None:
        imported = imported_model(services, name)
        if imported is None:
            message = f"there is no run and no imported model {name!r}"
            raise SettingsError(message)
        model = _imported(services, imported, number)
    else:
        model = _trained(services, run, number)
    if not services.bucket.exists(model.key):
        message = f"the model {name}/{number} is not in the bucket: the object {model.key} is missing"
        raise SettingsError(message)
    return model


def imported_model(services: Services, name: str) -> ImportedModel | None:
    """Return the record of an imported model, or None. Raises SettingsError if it is damaged."""
    key = object_keys.imported_model(name)
    try:
        return decode_import(services.bucket.read(key, LARGEST_IMPORT_RECORD), key)
    except KeyError:
        return None


def _imported(services: Services, imported: ImportedModel, number: int) -> NewModel:
    if number:
        message = f"{imported.name!r} is an imported model, whose only one is {imported.name}/0"
        raise SettingsError(message)
    return NewModel(
        task=imported.task,
        run=imported.name,
        round=0,
        bucket=services.bucket.name,
        key=object_keys.model(imported.name, 0),
        sha256=imported.sha256,
        bytes=imported.bytes,
        closed_at=imported.imported_at,
        frozen_sha256=imported.frozen_sha256 or UNSET,
    )


def _trained(services: Services, run: Run, number: int) -> NewModel:
    if run.settings.statistics or run.settings.has_server_app:
        what = "is one of statistics" if run.settings.statistics else "has a ServerApp"
        message = f"run {run.name!r} {what}, so it has no models"
        raise SettingsError(message)
    if number == 0:
        return describe_model(services, run, 0, run.initial_sha256, run.initial_bytes, run.started_at)
    closed_round = _closed_round(services, run.name, number)
    if closed_round.work is not Work.TRAIN:
        message = (
            f"round {number} of run {run.name!r} only evaluated a model: that one is"
            f" {run.name}/{closed_round.base}"
        )
        raise SettingsError(message)
    return model_of(services, run, closed_round)


def _closed_round(services: Services, name: str, number: int) -> Round:
    """Return the closed attempt at a round. Raises SettingsError if there is none."""
    for round_ in services.rounds.rounds_from(name, number, number):
        if round_.state is State.CLOSED:
            return round_
    kept = manifests.round_of(services, name, number)
    if kept is None:
        message = f"round {number} of run {name!r} has not closed, so it has made no model"
        raise SettingsError(message)
    return kept.round

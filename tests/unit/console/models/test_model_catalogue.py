"""Models are listed with what the devices measured of them, and found by name or by alias."""

import msgspec
import pytest

from fedgrass.console.models.alias_moves import promote_model, roll_back
from fedgrass.console.models.model_catalogue import ModelCatalogue, measured
from fedgrass.console.models.model_lineage import lineage
from fedgrass.console.models.model_names import ModelName, parse_model_name
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.models.imported_model import ImportedModel
from fedgrass.federation.rounds import Work
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.weights import sha256
from tests.fakes.model_registry import ANN, BOB, ModelOperator, trained
from tests.fakes.small_fleet import RUN, SmallFleet


@pytest.fixture
def fleet() -> SmallFleet:
    return trained(evaluate_last=True)


@pytest.fixture
def operator(fleet: SmallFleet) -> ModelOperator:
    return ModelOperator(fleet)


def add_import(fleet: SmallFleet, name: str = "base", task: str = "digits") -> None:
    data = fleet.bucket.objects[object_keys.model(RUN, 0)]
    record = ImportedModel(
        name=name, task=task, sha256=sha256(data), bytes=len(data), imported_at=5, by=BOB, source="a.pt"
    )
    fleet.bucket.write(object_keys.model(name, 0), data)
    fleet.bucket.write(object_keys.imported_model(name), msgspec.json.encode(record))


def test_each_model_has_the_metrics_that_were_measured_of_it(operator: ModelOperator) -> None:
    entries = ModelCatalogue(operator).entries()
    assert [entry.model for entry in entries] == [f"{RUN}/{number}" for number in range(4)]
    assert [entry.origin for entry in entries] == ["initial", "trained", "trained", "trained"]
    assert [list(entry.metrics) for entry in entries] == [["loss"]] * 4
    rounds = {round_.number: round_ for round_ in operator.rounds_alone(operator.run(RUN))}
    assert entries[2].metrics["loss"] == rounds[3].metrics["loss"]
    assert (entries[2].sha256, entries[2].bytes) == (rounds[2].model_sha256, rounds[2].model_bytes)
    assert [entry.aliases for entry in entries] == [[], [], [], ["latest"]]


def test_evaluations_are_preferred_and_what_devices_say_of_their_own_training_is_left_out(
    operator: ModelOperator,
) -> None:
    trained_round = next(operator.rounds_alone(operator.run(RUN)))
    own = {"accuracy": 0.5, "local_accuracy": 0.9, "train_loss": 0.1}
    trained_round = msgspec.structs.replace(trained_round, base=3, metrics=own)
    evaluated = msgspec.structs.replace(trained_round, work=Work.EVALUATE, metrics={"accuracy": 0.7})
    assert measured([trained_round]) == {3: {"accuracy": 0.5}}
    assert measured([evaluated, trained_round]) == {3: {"accuracy": 0.7}}


def test_only_the_last_models_of_each_run_are_read(operator: ModelOperator) -> None:
    assert [entry.round for entry in ModelCatalogue(operator).entries(last=2)] == [2, 3]
    assert [entry.round for entry in ModelCatalogue(operator).entries(run=RUN, last=1)] == [3]


def test_models_of_other_tasks_are_left_out(fleet: SmallFleet, operator: ModelOperator) -> None:
    add_import(fleet, "cracked", "cracks")
    assert [entry.model for entry in ModelCatalogue(operator).entries(task="cracks")] == ["cracked/0"]
    assert len(ModelCatalogue(operator).entries(task="digits")) == 4


def test_a_run_of_statistics_has_no_models() -> None:
    fleet = SmallFleet(devices=5)
    fleet.settings = parse_settings({"task": "digits", "statistics": {}})
    fleet.start()
    assert ModelCatalogue(ModelOperator(fleet)).entries() == []


def test_an_alias_names_a_model_until_it_is_moved(operator: ModelOperator) -> None:
    first = promote_model(operator, f"{RUN}/1", "production")
    assert (first.before, first.model, first.changed) == ("", f"{RUN}/1", True)
    second = promote_model(operator, f"{RUN}/3", "production")
    assert second.before == f"{RUN}/1"
    catalogue = ModelCatalogue(operator)
    assert catalogue.resolve("production", "digits") == ModelName(RUN, 3)
    assert catalogue.entry(ModelName(RUN, 3)).aliases == ["production", "latest"]
    assert roll_back(operator, "production", "digits").model == f"{RUN}/1"
    assert ModelCatalogue(operator).resolve("production", "digits") == ModelName(RUN, 1)
    assert promote_model(operator, "latest", "canary", "digits").model == f"{RUN}/3"


def test_of_two_operators_the_second_learns_who_was_first(fleet: SmallFleet) -> None:
    ann, bob = ModelOperator(fleet, ANN), ModelOperator(fleet, BOB)
    fleet.counter.plan(lambda: promote_model(bob, f"{RUN}/2", "production"), name="write_over")
    with pytest.raises(SettingsError, match=f"was moved to {RUN}/2 since then, by {BOB}"):
        promote_model(ann, f"{RUN}/1", "production")


@pytest.mark.parametrize(
    ("given", "task", "words"),
    [
        ("production", "", "name the task, --task TASK, or RUN/ROUND"),
        ("producton", "digits", "the task 'digits' has no alias 'producton': did you mean 'production'?"),
        ("Prod!", "digits", "'Prod!' cannot name an alias"),
        ("latest", "cracks", "no run has published a model of the task 'cracks'"),
        (f"{RUN}/x", "", "it takes RUN/ROUND, such as digits-1/5"),
        ("/3", "", "'' cannot name a run"),
    ],
)
def test_a_name_that_names_no_model_is_refused(
    operator: ModelOperator, given: str, task: str, words: str
) -> None:
    promote_model(operator, f"{RUN}/1", "production")
    with pytest.raises(SettingsError) as refused:
        ModelCatalogue(operator).resolve(given, task)
    assert words in str(refused.value)


def test_a_model_that_does_not_exist_is_answered_by_those_that_do(
    fleet: SmallFleet, operator: ModelOperator
) -> None:
    catalogue = ModelCatalogue(operator)
    with pytest.raises(SettingsError, match=f"no model {RUN}/4: {RUN} has the models 0, 1, 2, 3"):
        catalogue.entry(parse_model_name(f"{RUN}/4"))
    with pytest.raises(SettingsError, match="there is no run 'other'"):
        catalogue.entry(ModelName("other", 1))
    add_import(fleet)
    with pytest.raises(SettingsError, match="no model base/1: base has the models 0"):
        catalogue.entry(ModelName("base", 1))


def test_the_lineage_of_a_model_has_the_replies_that_made_it(
    fleet: SmallFleet, operator: ModelOperator
) -> None:
    promote_model(operator, f"{RUN}/2", "production")
    found = lineage(operator, ModelCatalogue(operator), ModelName(RUN, 2))
    assert (found.parent, found.ancestors, found.strategy) == (f"{RUN}/1", [f"{RUN}/0"], "weighted_mean")
    assert found.settings == {"task": "digits", "rounds": 3}
    assert found.code.startswith("fedgrass ")
    assert [reply.device for reply in found.replies] == fleet.names
    (closed,) = [one for one in operator.rounds_alone(operator.run(RUN)) if one.number == 2]
    parts = {part.device: part for part in operator.participants(closed)}
    for reply in found.replies:
        part = parts[reply.device]
        assert (reply.checksum, reply.examples) == (part.checksum, part.examples)
        assert reply.started_from == f"{RUN}/1"
    assert [change.by for change in found.history["production"]] == [ANN]


def test_the_lineage_of_a_continued_run_leads_to_the_imported_model(
    fleet: SmallFleet, operator: ModelOperator
) -> None:
    add_import(fleet)
    settings = {"task": "digits", "rounds": 1}
    fleet.act("start", "second", settings=settings, continue_from={"run": "base", "round": 0})
    found = lineage(operator, ModelCatalogue(operator), ModelName("second", 0))
    assert (found.parent, found.ancestors) == ("base/0", ["second/0", "base/0"])
    origin = lineage(operator, ModelCatalogue(operator), ModelName("base", 0))
    assert (origin.model.origin, origin.source, origin.imported_by) == ("imported", "a.pt", BOB)


def test_a_run_of_another_task_cannot_continue_from_an_imported_model(
    fleet: SmallFleet, operator: ModelOperator
) -> None:
    add_import(fleet, task="cracks")
    settings = {"task": "digits", "rounds": 1}
    with pytest.raises(SettingsError, match="base/0 was imported as a model of the task 'cracks'"):
        fleet.act("start", "second", settings=settings, continue_from={"run": "base", "round": 0})
    assert "second" not in operator.runs()

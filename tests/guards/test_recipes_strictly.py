"""The recipes, checked more strictly than by GDK's schema: everything that either nucleus would reject.

Rules of Nucleus Lite: its document RECIPE_SUPPORT_CHANGES, and measurements.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import package
from components.predictor.local_requests import topic_of
from components.trainer import install
from fedgrass import __version__
from fedgrass.console.options import FULL_NAMES
from fedgrass.federation.topics import Kind, of_device, of_models
from greengrass_emulator.core.profiles import CLASSIC, LITE, Profile
from greengrass_emulator.recipe.recipe_platform import RecipeVariables, environment, select_manifest
from greengrass_emulator.recipe.recipe_reader import LARGEST_RECIPE_BYTES, Recipe, read_recipe
from tests.guards import gdk

PROJECT = Path(__file__).parents[2]
NAMES = sorted(FULL_NAMES.values())
# Nucleus Lite lacks shutdown, recover, startup and skipif; both nuclei have these.
STEPS = {"install", "run"}
STEP_KEYS = {"Script", "Timeout"}
TOP = {
    "RecipeFormatVersion",
    "ComponentName",
    "ComponentVersion",
    "ComponentDescription",
    "ComponentPublisher",
    "ComponentDependencies",
    "ComponentConfiguration",
    "Manifests",
}
VARIABLE = re.compile(r"\{([^{}]*)\}")
# Variables of the component itself that both nuclei replace.
VARIABLES = re.compile(
    r"artifacts:(path|decompressedPath)|kernel:rootPath|iot:thingName|work:path|configuration:(/\w+)+"
)
ANY_DEVICE = {"plant": "+", "press-1": "+", "digits": "+"}


def filters(*topics: str) -> set[str]:
    """Return the filters that access control needs for topics of a fleet, a thing and a task."""
    return {"/".join(ANY_DEVICE.get(level, level) for level in topic.split("/")) for topic in topics}


def of(kind: Kind) -> str:
    return of_device("plant", "press-1", kind)


LOCAL = topic_of("digits").replace("digits", "*")
OF_TRAINER = {
    "aws.greengrass#PublishToIoTCore": filters(
        of(Kind.COMPLETE), of(Kind.STATUS), of(Kind.HELLO), of(Kind.HEARTBEAT)
    ),
    "aws.greengrass#SubscribeToIoTCore": filters(of(Kind.ANNOUNCE), of(Kind.HEARTBEAT)),
}
ACCESS = {
    FULL_NAMES["trainer"]: OF_TRAINER,
    FULL_NAMES["trainer-lite"]: OF_TRAINER,
    FULL_NAMES["predictor"]: {
        "aws.greengrass#PublishToIoTCore": filters(of(Kind.PREDICTOR)),
        "aws.greengrass#SubscribeToIoTCore": filters(of_models("plant", "digits"))
        | {"fedgrass/+/models/+/aliases/+"},
        "aws.greengrass#SubscribeToTopic": {LOCAL},
        "aws.greengrass#PublishToTopic": {LOCAL},  # answers below replies/, and probes
    },
}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Each component's recipe."""
    found: str = request.param
    return found


@pytest.fixture
def file(name: str) -> Path:
    return PROJECT / "recipes" / f"{name}.yaml"


@pytest.fixture
def document(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text())
    return found


@pytest.fixture
def built(name: str, tmp_path: Path) -> Path:
    """The recipe as published."""
    package.build_component(name, __version__, "fedgrass", tmp_path)
    return tmp_path / "recipes" / f"{name}.yaml"


def lifecycles(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [manifest["Lifecycle"] for manifest in document["Manifests"]]


def texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in texts(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in texts(inner)]
    return [value] if isinstance(value, str) else []


def test_every_component_has_a_recipe_of_its_name(name: str, document: dict[str, Any]) -> None:
    assert document["ComponentName"] == name
    assert {path.stem for path in (PROJECT / "recipes").glob("*")} == set(NAMES) == set(package.COMPONENTS)


def test_the_keys_are_those_of_greengrass_and_in_its_own_letters(document: dict[str, Any]) -> None:
    assert set(document) == TOP
    assert document["RecipeFormatVersion"] == "2020-01-25"
    for manifest in document["Manifests"]:
        assert set(manifest) == {"Platform", "Lifecycle", "Artifacts"}


def test_the_lifecycle_has_steps_that_both_nuclei_know(document: dict[str, Any]) -> None:
    for lifecycle in lifecycles(document):
        assert set(lifecycle) == STEPS | {"Setenv"}
        for step in STEPS:
            assert "Script" in lifecycle[step]
            assert set(lifecycle[step]) <= STEP_KEYS
            assert isinstance(lifecycle[step]["Script"], str)
            timeout = lifecycle[step].get("Timeout", 1)
            assert isinstance(timeout, int)
            assert timeout > 0
        assert all(isinstance(value, str) for value in lifecycle["Setenv"].values())


def test_the_installation_has_time_for_pytorch(document: dict[str, Any]) -> None:
    for lifecycle in lifecycles(document):
        assert lifecycle["install"]["Timeout"] > install.STEP_SECONDS
        assert "Timeout" not in lifecycle["run"]


def test_every_variable_stands_for_something_on_both_nuclei(document: dict[str, Any]) -> None:
    defaults = document["ComponentConfiguration"]["DefaultConfiguration"]
    for lifecycle in lifecycles(document):
        for text in texts(lifecycle):
            for variable in VARIABLE.findall(text):
                assert VARIABLES.fullmatch(variable), variable
                kind, _, pointer = variable.partition(":")
                if kind == "configuration":
                    assert pointer.removeprefix("/") in defaults


def test_braces_stand_nowhere_but_around_variables(document: dict[str, Any]) -> None:
    for text in texts(lifecycles(document)):
        assert not re.search(r"[{}]", VARIABLE.sub("", text)), text


@pytest.mark.parametrize("profile", [CLASSIC, LITE], ids=["classic", "lite"])
def test_both_nuclei_read_what_is_published(built: Path, name: str, profile: Profile) -> None:
    recipe = read_recipe(built, scalars_are_strings=profile is LITE)
    assert (recipe.component_name, recipe.component_version) == (name, __version__)
    variables = RecipeVariables(
        artifacts=Path("/a"),
        decompressed=Path("/d"),
        work=Path("/w"),
        root=Path("/r"),
        thing_name="press-1",
        configuration=recipe.default_configuration,
    )
    for manifest in recipe.manifests:
        assert environment(manifest.lifecycle.setenv, variables)["PYTHONPATH"].startswith("/d/")
        for step in STEPS:
            phase = manifest.lifecycle.phase(step)
            assert phase is not None
            assert "{" not in variables.fill(phase.script)


def chosen(recipe: Recipe, machine: str, profile: Profile, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: machine)
    return select_manifest(recipe, profile).platform


@pytest.mark.parametrize("profile", [CLASSIC, LITE], ids=["classic", "lite"])
@pytest.mark.parametrize(
    ("machine", "architecture"), [("x86_64", "amd64"), ("aarch64", "aarch64"), ("arm64", "aarch64")]
)
def test_there_is_a_manifest_without_gpu_for_each_machine(
    built: Path, machine: str, architecture: str, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = chosen(read_recipe(built), machine, profile, monkeypatch)
    assert platform == {"os": "linux", "architecture": architecture, "runtime": "*"}


def test_the_gpu_s_manifest_comes_first_and_asks_for_the_operator_s_word(document: dict[str, Any]) -> None:
    platforms = [manifest["Platform"] for manifest in document["Manifests"]]
    # Without `runtime`: Nucleus Lite, which would ignore `gpu`, does not select it.
    assert platforms[0] == {"os": "linux", "architecture": "amd64", "gpu": "nvidia"}
    assert not [platform for platform in platforms[1:] if "gpu" in platform]
    scripts = [lifecycle["install"]["Script"] for lifecycle in lifecycles(document)]
    assert ["--torch gpu" in script for script in scripts] == [True, False, False]


def test_manifests_differ_in_nothing_but_platform_and_pytorch(document: dict[str, Any]) -> None:
    plain = {
        json.dumps({**manifest, "Platform": {}}).replace(" --torch gpu", "")
        for manifest in document["Manifests"]
    }
    assert len(plain) == 1


def test_no_value_of_a_platform_is_a_pattern(document: dict[str, Any]) -> None:
    """Nucleus Lite supports no patterns."""
    for manifest in document["Manifests"]:
        assert all(re.fullmatch(r"[\w*]+", value) for value in manifest["Platform"].values())
        assert manifest["Platform"].get("runtime", "*") == "*"


def test_the_recipe_is_small_enough_as_it_is_and_as_it_is_published(name: str, file: Path) -> None:
    assert file.stat().st_size <= LARGEST_RECIPE_BYTES
    if name == gdk.read_project(PROJECT).name:
        assert (PROJECT / "recipe.yaml").resolve() == file


def test_dependencies_are_given_as_greengrass_wants_them(document: dict[str, Any]) -> None:
    for component, given in document["ComponentDependencies"].items():
        assert component.startswith("aws.greengrass.")
        assert given == {"VersionRequirement": "^2.0.0", "DependencyType": "SOFT"}
    # A dependency on one nucleus would exclude the other.
    assert not [component for component in document["ComponentDependencies"] if "Nucleus" in component]


def test_access_control_is_exactly_what_the_code_publishes_and_subscribes_to(
    name: str, document: dict[str, Any]
) -> None:
    services = document["ComponentConfiguration"]["DefaultConfiguration"]["accessControl"]
    found: dict[str, set[str]] = {}
    for policies in services.values():
        for policy in policies.values():
            assert set(policy) == {"policyDescription", "operations", "resources"}
            (operation,) = policy["operations"]
            assert operation not in found
            found[operation] = set(policy["resources"])
    assert found == ACCESS[name]
    assert set(services) <= {"aws.greengrass.ipc.mqttproxy", "aws.greengrass.ipc.pubsub"}


def test_each_artifact_is_one_that_is_built(built: Path, name: str) -> None:
    recipe = read_recipe(built)
    files = {path.name for path in (built.parents[1] / "artifacts" / name / __version__).iterdir()}
    for manifest in recipe.manifests:
        (artifact,) = manifest.artifacts
        assert artifact.file_name in files
        assert artifact.unarchive == "ZIP"
        assert artifact.uri.startswith("s3://BUCKET_NAME/COMPONENT_NAME/COMPONENT_VERSION/")


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
    # By default GDK publishes the next patch version; this recipe has a fixed one.
    assert gdk.read_project(PROJECT).settings["version"] == "NEXT_PATCH"

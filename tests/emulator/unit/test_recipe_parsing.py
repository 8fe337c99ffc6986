"""Recipes: accepted and refused forms, error messages, selection of the manifest, variables."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from greengrass_emulator.core.profiles import CLASSIC, LITE
from greengrass_emulator.emulator_errors import RecipeError
from greengrass_emulator.recipe.recipe_platform import RecipeVariables, environment, select_manifest
from greengrass_emulator.recipe.recipe_reader import LARGEST_RECIPE_BYTES, Recipe, parse_recipe, read_recipe
from tests.emulator.local_core import recipe


def parsed(**changes: Any) -> Recipe:
    return parse_recipe(yaml.safe_dump(recipe("true", **changes)).encode())


def manifest(run: str, **platform: str) -> dict[str, object]:
    return {"Platform": platform, "Lifecycle": {"run": run}}


VARIABLES = RecipeVariables(
    artifacts=Path("/g/packages/artifacts/C/1.0.0"),
    decompressed=Path("/g/packages/artifacts-unarchived/C/1.0.0"),
    work=Path("/g/work/C"),
    root=Path("/g"),
    thing_name="device-1",
    configuration={"epochs": 3, "name": "a b", "nested": {"a/b": {"on": True}}},
)


def test_yaml_and_json_are_the_same_recipe(tmp_path: Path) -> None:
    content = recipe("run it")
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "r.json").write_text(json.dumps(content))

    assert read_recipe(tmp_path / "r.yaml") == read_recipe(tmp_path / "r.json")


def test_an_unquoted_format_version_is_a_string_and_no_date() -> None:
    text = yaml.safe_dump(recipe("true")).replace("'2020-01-25'", "2020-01-25")

    assert parse_recipe(text.encode()).recipe_format_version == "2020-01-25"


def test_lite_reads_every_scalar_of_yaml_as_a_string_and_json_unchanged(tmp_path: Path) -> None:
    content = recipe("true", configuration={"epochs": 3, "rate": 0.1, "on": True, "list": [1]})
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "r.json").write_text(json.dumps(content))

    from_yaml = read_recipe(tmp_path / "r.yaml", scalars_are_strings=True).default_configuration
    from_json = read_recipe(tmp_path / "r.json", scalars_are_strings=True).default_configuration

    assert from_yaml == {"epochs": "3", "rate": "0.1", "on": "true", "list": ["1"]}
    assert from_json == {"epochs": 3, "rate": 0.1, "on": True, "list": [1]}


def test_a_timeout_may_arrive_as_a_string() -> None:
    lifecycle = {"install": {"Script": "pip install", "Timeout": "900"}}

    install = parsed(lifecycle=lifecycle).manifests[0].lifecycle.phase("install")

    assert install is not None
    assert install.timeout == 900


def test_a_phase_without_a_timeout_has_greengrass_s_two_minutes() -> None:
    install = parsed(lifecycle={"install": "true"}).manifests[0].lifecycle.phase("install")

    assert install is not None
    assert install.timeout == 120


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"ComponentVersion": "NEXT_PATCH"},
            "'NEXT_PATCH' is not a version such as 1.0.0.*build the component",
        ),
        ({"ComponentName": "my trainer"}, "ComponentName 'my trainer'"),
        (
            {"RecipeFormatVersion": "2021-01-01"},
            r"Invalid enum value '2021-01-01' - at `\$.RecipeFormatVersion`",
        ),
        ({"Component": "x"}, "unknown field `Component`"),
        ({"Manifests": []}, r"`\$.Manifests`"),
        ({"Lifecycle": {}}, "write the lifecycle into each manifest"),
        ({"lifecycle": {"Install": "x"}}, "unknown field `Install`.*spell it `install`"),
        ({"lifecycle": {"install": {"Script": "x", "Skipif": "onpath x"}}}, "Skipif is not supported here"),
        ({"lifecycle": {"Startup": "x"}}, "has the phases install, run, shutdown"),
        ({"lifecycle": {"install": {"Script": "x", "Timeout": 0}}}, r"Lifecycle.install.Timeout`"),
        ({"lifecycle": {"install": {"Timeout": 5}}}, "missing required field `Script`"),
        (
            {"lifecycle": {"install": {"Script": "x", "RequiresPrivilege": "true"}}},
            "install has RequiresPrivilege",
        ),
        ({"configuration": {"accessControl": {"s": {"p": {}}}}}, "s p operations must be a list"),
    ],
)
def test_a_mistake_is_refused_by_name(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        parsed(**changes)


@pytest.mark.parametrize(
    ("uri", "complaint"),
    [("s3://bucket/", "does not end in a file name"), ("docker:image", "neither s3:// nor file://")],
)
def test_an_artifact_that_cannot_be_fetched_is_refused(uri: str, complaint: str) -> None:
    one = {**manifest("true"), "Artifacts": [{"URI": uri}]}

    with pytest.raises(RecipeError, match=complaint):
        parsed(Manifests=[one])


@pytest.mark.parametrize(
    "text", [b"a: [", b"\xff\xfe\x00", b"a: &x [*x]", b"- 1", b"", b"!!python/object:os.system {}"]
)
def test_a_document_that_is_not_a_recipe_is_refused(text: bytes) -> None:
    with pytest.raises(RecipeError):
        parse_recipe(text)


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(RecipeError, match="key ComponentName is given twice"):
        parse_recipe(b"ComponentName: a\nComponentName: b\n")


def test_a_recipe_over_greengrass_s_limit_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("#" * (LARGEST_RECIPE_BYTES + 1))

    with pytest.raises(RecipeError, match="16001 bytes exceed Greengrass's limit of 16000"):
        read_recipe(file)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"absent.yaml: No such file"):
        read_recipe(tmp_path / "absent.yaml")


FIRST_USE_IN_THREADS = """
import importlib, sys, threading
sys.setswitchinterval(1e-6)
import greengrass_emulator.recipe.recipe_reader as module
from tests.emulator.unit.test_recipe_parsing import raw_recipe

for _ in range(40):
    importlib.reload(module)
    barrier = threading.Barrier(6)
    def read():
        barrier.wait()
        module.parse_recipe(raw_recipe())
    threads = [threading.Thread(target=read) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
"""


def raw_recipe() -> bytes:
    return json.dumps(recipe("true")).encode()


@pytest.mark.slow
def test_several_threads_may_be_the_first_to_read_a_recipe() -> None:
    # In a separate process: a failure would crash the interpreter.
    command = [sys.executable, "-c", FIRST_USE_IN_THREADS]
    ended = subprocess.run(command, cwd=Path(__file__).parents[3], timeout=60, check=False)

    assert ended.returncode == 0


def test_the_first_manifest_that_fits_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    several = parsed(
        Manifests=[
            manifest("windows", os="windows", runtime="*"),
            manifest("arm", os="linux", architecture="aarch64", runtime="*"),
            manifest("classic only", os="linux"),
            manifest("lite only", os="linux", runtime="aws_nucleus_lite"),
            manifest("any", os="*", runtime="*"),
        ]
    )

    assert select_manifest(several, CLASSIC).lifecycle.run == "classic only"
    assert select_manifest(several, LITE).lifecycle.run == "lite only"


def test_lite_hints_at_the_runtime_field_when_no_manifest_fits() -> None:
    with pytest.raises(RecipeError, match=r"no manifest for .* with nucleus lite: .*runtime: '\*'"):
        select_manifest(parsed(Manifests=[manifest("true", os="linux")]), LITE)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{artifacts:path}/main.py", "/g/packages/artifacts/C/1.0.0/main.py"),
        ("{artifacts:decompressedPath}/c", "/g/packages/artifacts-unarchived/C/1.0.0/c"),
        ("{work:path} {kernel:rootPath} {iot:thingName}", "/g/work/C /g device-1"),
        ("--epochs {configuration:/epochs} {configuration:/name}", "--epochs 3 a b"),
        ("{configuration:/nested/a~1b/on} {configuration:/nested}", 'true {"a/b": {"on": true}}'),
        ("echo ${HOME} { ls; } {a,b} {other:thing}", "echo ${HOME} { ls; } {a,b} {other:thing}"),
    ],
)
def test_variables_are_filled_in_and_other_braces_are_left(text: str, filled: str) -> None:
    assert VARIABLES.fill(text) == filled


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{work:folder}", r"\{work:folder\} is not a recipe variable: there are \{artifacts:path\}"),
        ("{configuration:/nested/c}", r"does not exist: the configuration has no 'c'"),
        ("{configuration:/epochs/c}", r"does not exist"),
        (
            "{aws.greengrass.Nucleus:configuration:/x}",
            "refers to aws.greengrass.Nucleus: .*direct dependencies",
        ),
    ],
)
def test_an_unknown_variable_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        VARIABLES.fill(text)


def test_setenv_takes_strings_and_numbers_and_refuses_the_rest() -> None:
    assert environment({"A": "{iot:thingName}", "B": 3, "C": True}, VARIABLES) == {
        "A": "device-1",
        "B": "3",
        "C": "true",
    }
    with pytest.raises(RecipeError, match="Setenv D must be a string or a number"):
        environment({"D": ["x"]}, VARIABLES)

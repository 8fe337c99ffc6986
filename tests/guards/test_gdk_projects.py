"""The projects that the Greengrass Development Kit builds and publishes: the root and the generated ones."""

import shutil
from pathlib import Path

import pytest

import package
from greengrass_emulator.recipe.recipe_reader import LARGEST_RECIPE_BYTES, parse_recipe
from tests.guards import gdk
from tests.guards.test_package import copy_of_the_tree, digests

TRAINER = "com.fedgrass.Trainer"
PREDICTOR = "com.fedgrass.Predictor"
GENERATED = Path("build") / "gdk" / PREDICTOR


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the tree with the link by which GDK finds the recipe."""
    copied = copy_of_the_tree(tmp_path / "tree")
    (copied / "recipe.yaml").symlink_to((package.ROOT / "recipe.yaml").readlink())
    return copied


def test_the_root_is_a_project_of_the_trainer(tree: Path) -> None:
    project = gdk.read_project(tree)
    assert (project.name, project.settings["version"]) == (TRAINER, "NEXT_PATCH")
    gdk.build(project)
    assert sorted(digests(project.build_folder)) == [
        f"artifacts/{TRAINER}/NEXT_PATCH/trainer.zip",
        f"recipes/{TRAINER}.yaml",
    ]


def test_a_build_at_the_root_makes_a_project_of_the_predictor(tree: Path) -> None:
    gdk.build(gdk.read_project(tree))
    generated = gdk.read_project(tree / GENERATED)
    root = gdk.read_project(tree)
    assert generated.name == PREDICTOR
    assert generated.settings["publish"] == root.settings["publish"]
    assert sorted(digests(generated.build_folder)) == [
        f"artifacts/{PREDICTOR}/NEXT_PATCH/predictor.zip",
        "recipes/recipe.yaml",
    ]


@pytest.mark.slow
def test_the_generated_project_can_be_built_by_itself(tree: Path) -> None:
    gdk.build(gdk.read_project(tree))
    generated = gdk.read_project(tree / GENERATED)
    before = digests(generated.folder)
    gdk.build(generated)
    assert digests(generated.folder) == before
    # Files in the root stay untouched.
    assert (tree / "greengrass-build" / "recipes" / f"{TRAINER}.yaml").is_file()


@pytest.mark.slow
def test_a_build_follows_what_was_changed(tree: Path) -> None:
    gdk.build(gdk.read_project(tree))
    generated = gdk.read_project(tree / GENERATED)
    before = digests(generated.build_folder)
    with (tree / "components" / "predictor" / "web.py").open("a") as file:
        file.write("# changed\n")
    gdk.build(generated)
    assert digests(generated.build_folder) != before


@pytest.mark.slow
@pytest.mark.parametrize(("where", "name"), [(Path(), TRAINER), (GENERATED, PREDICTOR)])
def test_what_is_published_can_be_deployed_on_both_nuclei(tree: Path, where: Path, name: str) -> None:
    gdk.build(gdk.read_project(tree))
    published = gdk.publish(gdk.read_project(tree / where), "bucket-us-east-1-123", "1.0.7")
    assert len(published["recipe"]) <= LARGEST_RECIPE_BYTES
    for strings in (False, True):
        recipe = parse_recipe(published["recipe"], scalars_are_strings=strings)
        assert (recipe.component_name, recipe.component_version) == (name, "1.0.7")
        assert recipe.component_publisher == "fedgrass"
        uris = {artifact.uri for manifest in recipe.manifests for artifact in manifest.artifacts}
        assert {uri.removeprefix("s3://bucket-us-east-1-123/") for uri in uris} == set(published) - {"recipe"}


@pytest.mark.slow
def test_publishing_builds_what_was_not_built(tree: Path) -> None:
    gdk.build(gdk.read_project(tree))
    generated = gdk.read_project(tree / GENERATED)
    shutil.rmtree(generated.build_folder)
    assert f"{PREDICTOR}/1.0.7/predictor.zip" in gdk.publish(generated, "bucket", "1.0.7")


def test_the_checkout_itself_is_a_project(project: Path) -> None:
    found = gdk.read_project(project)
    assert found.settings["build"]["custom_build_command"] == ["python3", "package.py", "component"]
    assert found.recipe_file == f"{TRAINER}.yaml"

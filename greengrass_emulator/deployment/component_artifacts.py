"""Copies a component's artifacts into a core's folder, as a deployment does."""

import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from greengrass_emulator.emulator_errors import ArtifactError
from greengrass_emulator.recipe.recipe_reader import Artifact, Manifest, Recipe


def artifact_folders(packages: Path, recipe: Recipe) -> tuple[Path, Path]:
    """Return the folder of a component's artifacts, and the folder in which its archives are unpacked."""
    below = Path(recipe.component_name) / recipe.component_version
    return packages / "artifacts" / below, packages / "artifacts-unarchived" / below


def install_artifacts(
    recipe: Recipe, manifest: Manifest, source: Path, packages: Path, *, unpacks: bool = True
) -> None:
    """Copy a manifest's artifacts, and unpack the archives among them.

    Artifacts of an earlier deployment of the same version are put aside: ``restore_artifacts`` restores them,
    ``forget_artifacts`` removes them.

    Args:
        recipe: the component's recipe.
        manifest: the one whose artifacts are copied.
        source: a folder with <component>/<version>/<file>, as GDK builds it, or with the files themselves.
        packages: the core's folder of artifacts.
        unpacks: whether archives are unpacked.

    Raises:
        ArtifactError: an artifact is missing or cannot be unpacked.
    """
    folder, unpacked = artifact_folders(packages, recipe)
    forget_artifacts(recipe, packages)
    for place in (folder, unpacked):
        if place.exists():
            place.rename(_aside(place))
        place.mkdir(parents=True)
    for artifact in manifest.artifacts:
        built = source / recipe.component_name / recipe.component_version / artifact.file_name
        file = built if built.is_file() else source / artifact.file_name
        if not file.is_file():
            message = f"artifact {artifact.uri} is neither {built} nor {file}: build the component first"
            raise ArtifactError(message)
        copy = folder / artifact.file_name
        shutil.copyfile(file, copy)
        _permit([copy], artifact)
        if artifact.unarchive == "ZIP" and unpacks:
            _unpack(copy, unpacked / copy.stem, artifact)


def restore_artifacts(recipe: Recipe, packages: Path) -> None:
    """Undo the last ``install_artifacts`` of this version: restore what it has put aside, if anything."""
    for place in artifact_folders(packages, recipe):
        if _aside(place).exists():
            shutil.rmtree(place, ignore_errors=True)
            _aside(place).rename(place)


def forget_artifacts(recipe: Recipe, packages: Path) -> None:
    """Remove what the last ``install_artifacts`` of this version has put aside."""
    for place in artifact_folders(packages, recipe):
        shutil.rmtree(_aside(place), ignore_errors=True)


def _aside(place: Path) -> Path:
    return place.with_name(f"{place.name}.before")


def _unpack(archive: Path, folder: Path, artifact: Artifact) -> None:
    try:
        with zipfile.ZipFile(archive) as content:
            for name in content.namelist():
                path = PurePosixPath(name)
                if path.is_absolute() or ".." in path.parts or "\\" in name:
                    message = f"artifact {artifact.uri} contains {name!r}, which leads out of its folder"
                    raise ArtifactError(message)
            content.extractall(folder)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        message = f"artifact {artifact.uri} cannot be unpacked as a ZIP archive: {error}"
        raise ArtifactError(message) from error
    _permit(folder.rglob("*"), artifact)


def _permit(paths: Iterable[Path], artifact: Artifact) -> None:
    if artifact.permission.execute == "NONE":
        return
    for path in paths:
        if path.is_file():
            path.chmod(0o700 if artifact.permission.execute == "OWNER" else 0o755)

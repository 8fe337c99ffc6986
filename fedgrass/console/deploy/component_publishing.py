"""Publish a component like ``gdk component publish``, and clean up after a failure.

The artifact is uploaded under a key with its checksum, then the component version is created from the recipe.
"""

import hashlib
import re
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml
from botocore.exceptions import ClientError
from msgspec import Struct

import package
from fedgrass.console import stack
from fedgrass.console.aws_clients import Clients
from fedgrass.console.greengrass_cloud import Account, DeploymentError, GreengrassCloud, code_of
from fedgrass.console.options import FULL_NAMES
from fedgrass.console.results import reported_steps
from fedgrass.console.terminal import say
from fedgrass.federation.errors import SettingsError

_LARGEST_RECIPE = 16_000  # bytes
_ARTIFACTS = "components/"  # prefix that the role of the devices may read
_WAIT_SECONDS = 120.0  # for a version to become deployable
LOOK_SECONDS = 2.0  # between two requests for its state
_VERSION = re.compile(r"(0|[1-9]\d{0,5})(\.(0|[1-9]\d{0,5})){2}(-[0-9A-Za-z.-]{1,40})?")


class Built(Struct, frozen=True, kw_only=True):
    """A component that is ready to publish."""

    key: str  # object key of the artifact
    artifact: bytes
    recipe: bytes


class Publisher:
    """Creates and deletes component versions.

    Args:
        clients: returns the boto3 client of a service.
        cloud: the account.
        bucket: the stack's bucket, which holds the artifacts.
    """

    def __init__(self, clients: Clients, cloud: GreengrassCloud, bucket: str) -> None:
        self._s3 = clients("s3")
        self._greengrass = clients("greengrassv2")
        self._cloud = cloud
        self._bucket = bucket

    def publish(
        self,
        name: str,
        version: str,
        make: Callable[[Path], object] | None = None,
        *,
        deploy: str = "fedgrass deploy devices --group GROUP",
        dry_run: bool = False,
    ) -> Iterator[str]:
        """Build and publish a component version; yield a line per step.

        Args:
            name: full name of the component.
            version: to publish.
            make: builds the component into a folder, as `gdk component build`; by default from the sources.
            deploy: the command that deploys it.
            dry_run: whether only to print what would be done.

        Raises:
            SettingsError: the version is invalid, or already exists.
            DeploymentError: Greengrass refused the component; the artifact was deleted.
        """
        self.check_new(name, version)
        built = build(name, version, self._bucket, make)
        where = f"s3://{self._bucket}/{built.key}"
        if dry_run:
            yield f"would upload {where} ({len(built.artifact):,} bytes) and create {name} {version}"
            return
        uploaded = self._upload(built)
        yield f"uploaded {where} ({len(built.artifact):,} bytes)"
        try:
            arn = self._create(name, version, built.recipe)
            self._wait(name, version, arn)
        except BaseException:
            if uploaded and not self._is_needed(name, version, built.key):
                self._s3.delete_object(Bucket=self._bucket, Key=built.key)
            raise
        yield f"{name} {version} is published; deploy it with `{deploy}`"

    def check_new(self, name: str, version: str) -> None:
        """Raise SettingsError if a version is invalid, or already published."""
        check_version(version)
        published = self._cloud.versions(name)
        if version in published:
            raise _exists(name, version, published[0])

    def remove(self, name: str, version: str, *, dry_run: bool = False) -> Iterator[str]:
        """Delete a component version and its artifacts; yield a line per step. Raises SettingsError."""
        arn = self._cloud.account.component_version(name, version)
        try:
            recipe = self._greengrass.get_component(arn=arn, recipeOutputFormat="YAML")["recipe"]
        except ClientError as error:
            if code_of(error) != "ResourceNotFoundException":
                raise
            versions = ", ".join(self._cloud.versions(name)) or "none"
            message = f"there is no {name} {version}; published versions: {versions}"
            raise SettingsError(message) from error
        keys = [key for key in _keys(recipe, self._bucket) if key.startswith(_ARTIFACTS)]
        if dry_run:
            yield f"would delete {name} {version} and {', '.join(keys) or 'no artifact'}"
            return
        # The version first: without its artifact it would look deployable and fail.
        self._greengrass.delete_component(arn=arn)
        yield f"deleted {name} {version}; devices that run it keep it"
        for key in keys:
            self._s3.delete_object(Bucket=self._bucket, Key=key)
            yield f"deleted s3://{self._bucket}/{key}"

    def _upload(self, built: Built) -> bool:
        """Upload the artifact; return False if it already exists, with the same content by its key."""
        checksum = b64encode(hashlib.sha256(built.artifact).digest()).decode()
        try:
            self._s3.put_object(
                Bucket=self._bucket,
                Key=built.key,
                Body=built.artifact,
                ChecksumSHA256=checksum,
                IfNoneMatch="*",
            )
        except ClientError as error:
            if code_of(error) != "PreconditionFailed":
                raise
            return False
        return True

    def _is_needed(self, name: str, version: str, key: str) -> bool:
        """Return whether the version exists with this artifact: another operator may have published it."""
        arn = self._cloud.account.component_version(name, version)
        try:
            recipe = self._greengrass.get_component(arn=arn, recipeOutputFormat="YAML")["recipe"]
        except ClientError as error:
            return code_of(error) != "ResourceNotFoundException"
        return key in _keys(recipe, self._bucket)

    def _create(self, name: str, version: str, recipe: bytes) -> str:
        try:
            return str(self._greengrass.create_component_version(inlineRecipe=recipe)["arn"])
        except ClientError as error:
            if code_of(error) == "ConflictException":
                raise _exists(name, version, version) from error
            if code_of(error) == "ValidationException":
                message = f"Greengrass refused the recipe of {name} {version}, nothing was published: {error}"
                raise DeploymentError(message) from error
            raise

    def _wait(self, name: str, version: str, arn: str) -> None:
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            status = self._greengrass.describe_component(arn=arn)["status"]
            if status["componentState"] == "DEPLOYABLE":
                return
            if status["componentState"] == "FAILED":
                break
            if time.monotonic() > deadline:
                status = {"message": f"it was not deployable within {_WAIT_SECONDS:.0f} s"}
                break
            time.sleep(LOOK_SECONDS)
        self._greengrass.delete_component(arn=arn)
        errors = "; ".join(f"{part}: {text}" for part, text in status.get("errors", {}).items())
        message = f"{name} {version} failed and was deleted: {status.get('message', '')} {errors}".rstrip()
        raise DeploymentError(message)


def check_version(version: str) -> None:
    """Raise SettingsError unless Greengrass accepts a version."""
    if not _VERSION.fullmatch(version):
        message = f"--version is {version!r}; it takes three numbers, such as 1.0.0"
        raise SettingsError(message)


def build(name: str, version: str, bucket: str, make: Callable[[Path], object] | None = None) -> Built:
    """Build a component; its recipe refers to the artifact in ``bucket``.

    Args:
        name: full name of the component.
        version: of the component.
        bucket: of the artifact.
        make: builds it into a folder, as `gdk component build` does; by default from the sources.

    Raises:
        SettingsError: the recipe exceeds the limit of Greengrass.
    """
    with tempfile.TemporaryDirectory(prefix="fedgrass-component-") as folder:
        if make is None:
            package.build_component(name, version, "fedgrass", Path(folder))
        else:
            make(Path(folder))
        (artifact,) = (Path(folder) / "artifacts" / name / version).iterdir()
        content = artifact.read_bytes()
        # The key has the checksum: no publication can overwrite the artifact of another.
        digest = hashlib.sha256(content).hexdigest()[:16]
        key = f"{_ARTIFACTS}{name}/{version}/{digest}/{artifact.name}"
        recipe = (Path(folder) / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    recipe = recipe.replace(
        f"BUCKET_NAME/COMPONENT_NAME/COMPONENT_VERSION/{artifact.name}", f"{bucket}/{key}"
    )
    if (size := len(recipe.encode())) > _LARGEST_RECIPE:
        message = f"the recipe of {name} has {size:,} bytes, and Greengrass takes {_LARGEST_RECIPE:,}"
        raise SettingsError(message)
    return Built(key=key, artifact=content, recipe=recipe.encode())


def _keys(recipe: bytes, bucket: str) -> list[str]:
    manifests = yaml.safe_load(recipe).get("Manifests", [])
    uris = (artifact["URI"] for manifest in manifests for artifact in manifest.get("Artifacts", []))
    start = f"s3://{bucket}/"
    return sorted({uri.removeprefix(start) for uri in uris if uri.startswith(start)})


def _exists(name: str, version: str, latest: str) -> SettingsError:
    message = (
        f"{name} {version} already exists, and versions are immutable (the latest is {latest}): publish"
        " another version with --version, or delete this one with --remove"
    )
    return SettingsError(message)


@stack.refusals()
def component_command(  # noqa: PLR0913 - the options of the command
    name: str, *, stack_name: str, version: str, remove: bool, dry_run: bool, account: str, output: str
) -> None:
    """Publish a component version, or delete one, and print a line per step; ``name`` as in FULL_NAMES."""
    cloud = GreengrassCloud(stack.client, Account(stack.client, account))
    publisher = Publisher(stack.client, cloud, stack.outputs(stack_name)["BucketName"])
    do = publisher.remove if remove else publisher.publish
    with reported_steps(output, dry_run=dry_run):
        for line in do(FULL_NAMES[name], version, dry_run=dry_run):
            say(line)

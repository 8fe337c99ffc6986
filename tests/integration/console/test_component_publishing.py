"""Publishing a component without the GDK: to S3 of the embedded cloud and a stubbed GreengrassV2.

The embedded cloud has no GreengrassV2; its calls are checked against the service model.
"""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.exceptions import ClientError
from botocore.stub import ANY

from fedgrass.console.deploy import component_publishing
from fedgrass.console.deploy.component_publishing import Publisher, build
from fedgrass.console.greengrass_cloud import Account, DeploymentError, GreengrassCloud
from fedgrass.federation.errors import SettingsError
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from greengrass_emulator.recipe.recipe_reader import parse_recipe
from tests.fakes.stubbed_aws import ACCOUNT, REGION, StubbedAws

TRAINER = "com.fedgrass.Trainer"
ARN = f"arn:aws:greengrass:{REGION}:{ACCOUNT}:components:{TRAINER}"
VERSION_ARN = f"{ARN}:versions:0.3.0"


@pytest.fixture
def aws() -> StubbedAws:
    return StubbedAws()


@pytest.fixture
def bucket(embedded_cloud: EmbeddedCloud, tmp_path: Path) -> Iterator[str]:
    name = "components-" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]
    embedded_cloud.client("s3").create_bucket(Bucket=name)
    yield name
    for key in stored(embedded_cloud, name):
        embedded_cloud.client("s3").delete_object(Bucket=name, Key=key)
    embedded_cloud.client("s3").delete_bucket(Bucket=name)


@pytest.fixture
def publisher(
    aws: StubbedAws, embedded_cloud: EmbeddedCloud, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Publisher:
    monkeypatch.setattr(component_publishing, "LOOK_SECONDS", 0.0)

    def clients(service: str) -> Any:
        return embedded_cloud.client(service) if service == "s3" else aws.client(service)

    aws.expect_account()
    return Publisher(clients, GreengrassCloud(clients, Account(clients)), bucket)


def stored(cloud: EmbeddedCloud, bucket: str) -> list[str]:
    listed = cloud.client("s3").list_objects_v2(Bucket=bucket)
    return [entry["Key"] for entry in listed.get("Contents", [])]


def expect_versions(aws: StubbedAws, *versions: str) -> None:
    listed = [{"componentName": TRAINER, "componentVersion": version, "arn": ARN} for version in versions]
    aws.expect("greengrassv2", "list_component_versions", {"componentVersions": listed}, arn=ARN)


def created(state: str, **more: Any) -> dict[str, Any]:
    return {
        "arn": VERSION_ARN,
        "componentName": TRAINER,
        "componentVersion": "0.3.0",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "status": {"componentState": state, **more},
    }


def described(state: str, **more: Any) -> dict[str, Any]:
    return {"arn": VERSION_ARN, "status": {"componentState": state, **more}}


def test_a_component_is_published_with_an_artifact_that_its_recipe_names(
    aws: StubbedAws, embedded_cloud: EmbeddedCloud, bucket: str, publisher: Publisher
) -> None:
    expect_versions(aws, "0.2.0")
    aws.expect("greengrassv2", "create_component_version", created("REQUESTED"), inlineRecipe=ANY)
    aws.expect("greengrassv2", "describe_component", described("INITIATED"), arn=VERSION_ARN)
    aws.expect("greengrassv2", "describe_component", described("DEPLOYABLE"), arn=VERSION_ARN)
    lines = list(publisher.publish(TRAINER, "0.3.0"))
    assert lines[-1].startswith(f"{TRAINER} 0.3.0 is published")
    aws.all_came()
    (key,) = stored(embedded_cloud, bucket)
    recipe = parse_recipe(build(TRAINER, "0.3.0", bucket).recipe)
    uris = {artifact.uri for manifest in recipe.manifests for artifact in manifest.artifacts}
    assert uris == {f"s3://{bucket}/{key}"}
    content = embedded_cloud.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert "components/trainer/trainer_main.py" in archive.namelist()


def test_a_version_that_exists_already_is_refused_before_anything_is_uploaded(
    aws: StubbedAws, embedded_cloud: EmbeddedCloud, bucket: str, publisher: Publisher
) -> None:
    expect_versions(aws, "0.4.0", "0.3.0")
    with pytest.raises(SettingsError, match=r"0\.3\.0 already exists.*latest is 0\.4\.0.*--version"):
        list(publisher.publish(TRAINER, "0.3.0"))
    assert stored(embedded_cloud, bucket) == []
    aws.all_came()


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("ConflictException", SettingsError, "already exists"),
        ("ValidationException", DeploymentError, "refused the recipe"),
        ("AccessDeniedException", ClientError, "AccessDenied"),
    ],
)
def test_a_component_that_is_refused_leaves_no_artifact(  # noqa: PLR0913, PLR0917 - fixtures
    aws: StubbedAws,
    embedded_cloud: EmbeddedCloud,
    bucket: str,
    publisher: Publisher,
    code: str,
    kind: type[Exception],
    words: str,
) -> None:
    expect_versions(aws)
    aws.refuse("greengrassv2", "create_component_version", code)
    aws.refuse("greengrassv2", "get_component", "ResourceNotFoundException")
    with pytest.raises(kind, match=words):
        list(publisher.publish(TRAINER, "0.3.0"))
    assert stored(embedded_cloud, bucket) == []
    aws.all_came()


def test_a_component_that_does_not_become_deployable_is_taken_back_with_its_reason(
    aws: StubbedAws, embedded_cloud: EmbeddedCloud, bucket: str, publisher: Publisher
) -> None:
    expect_versions(aws)
    aws.expect("greengrassv2", "create_component_version", created("REQUESTED"))
    failed = described("FAILED", message="bad artifact", errors={"trainer.zip": "no access"})
    aws.expect("greengrassv2", "describe_component", failed)
    aws.expect("greengrassv2", "delete_component", {}, arn=VERSION_ARN)
    aws.refuse("greengrassv2", "get_component", "ResourceNotFoundException")
    with pytest.raises(
        DeploymentError, match=r"failed and was deleted: bad artifact trainer\.zip: no access"
    ):
        list(publisher.publish(TRAINER, "0.3.0"))
    assert stored(embedded_cloud, bucket) == []
    aws.all_came()


@pytest.mark.parametrize("first", [True, False])
def test_an_artifact_that_another_publication_needs_is_not_deleted(
    aws: StubbedAws, embedded_cloud: EmbeddedCloud, bucket: str, publisher: Publisher, *, first: bool
) -> None:
    """Two operators publish the same version concurrently; this one uploads first or second and fails."""
    built = build(TRAINER, "0.3.0", bucket)
    if not first:
        embedded_cloud.client("s3").put_object(Bucket=bucket, Key=built.key, Body=built.artifact)
    expect_versions(aws)
    aws.refuse("greengrassv2", "create_component_version", "ConflictException")
    if first:
        recipe = {"recipe": built.recipe, "recipeOutputFormat": "YAML"}
        aws.expect("greengrassv2", "get_component", recipe, arn=VERSION_ARN, recipeOutputFormat="YAML")
    with pytest.raises(SettingsError, match="already exists"):
        list(publisher.publish(TRAINER, "0.3.0"))
    assert stored(embedded_cloud, bucket) == [built.key]
    aws.all_came()


def test_a_dry_run_uploads_nothing(
    aws: StubbedAws, embedded_cloud: EmbeddedCloud, bucket: str, publisher: Publisher
) -> None:
    expect_versions(aws)
    (line,) = publisher.publish(TRAINER, "0.3.0", dry_run=True)
    assert line.startswith(f"would upload s3://{bucket}/components/{TRAINER}/0.3.0/")
    assert stored(embedded_cloud, bucket) == []


def test_a_version_is_deleted_with_its_artifact(
    aws: StubbedAws, embedded_cloud: EmbeddedCloud, bucket: str, publisher: Publisher
) -> None:
    built = build(TRAINER, "0.3.0", bucket)
    for key in (built.key, "components/other"):
        embedded_cloud.client("s3").put_object(Bucket=bucket, Key=key, Body=b"x")
    recipe = {"recipe": built.recipe, "recipeOutputFormat": "YAML"}
    aws.expect("greengrassv2", "get_component", recipe, arn=VERSION_ARN, recipeOutputFormat="YAML")
    aws.expect("greengrassv2", "delete_component", {}, arn=VERSION_ARN)
    assert len(list(publisher.remove(TRAINER, "0.3.0"))) == 2
    assert stored(embedded_cloud, bucket) == ["components/other"]
    aws.all_came()


def test_a_version_that_is_not_there_cannot_be_deleted(aws: StubbedAws, publisher: Publisher) -> None:
    aws.refuse("greengrassv2", "get_component", "ResourceNotFoundException")
    expect_versions(aws, "0.2.0")
    with pytest.raises(
        SettingsError, match=r"no com\.fedgrass\.Trainer 0\.3\.0; published versions: 0\.2\.0"
    ):
        list(publisher.remove(TRAINER, "0.3.0"))


@pytest.mark.parametrize("version", ["NEXT_PATCH", "1.0", "01.0.0", "1.0.0 ", "../1.0.0"])
def test_what_is_no_version_is_refused(publisher: Publisher, version: str) -> None:
    with pytest.raises(SettingsError, match="it takes three numbers"):
        list(publisher.publish(TRAINER, version))


def test_another_content_lies_at_another_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = build(TRAINER, "0.3.0", "bucket")
    assert build(TRAINER, "0.3.0", "bucket") == first
    import package  # noqa: PLC0415 - as the publisher does

    changed = tmp_path / "changed.py"
    changed.write_text("# another content\n")
    sources = package._sources
    monkeypatch.setattr(
        package, "_sources", lambda parts: [*sources(parts), ("components/trainer/more.py", changed)]
    )
    assert build(TRAINER, "0.3.0", "bucket").key != first.key


def test_the_published_recipe_has_no_placeholder_left() -> None:
    for name in ("com.fedgrass.Trainer", "com.fedgrass.Predictor"):
        recipe = build(name, "0.3.0", "bucket").recipe.decode()
        document = yaml.safe_load(recipe)
        assert document["ComponentVersion"] == "0.3.0"
        assert "BUCKET_NAME" not in recipe.partition("RecipeFormatVersion")[2]
        assert "{COMPONENT_" not in recipe

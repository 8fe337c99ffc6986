"""Package a SAM template like `sam package`, and manage the bucket of its artifacts.

Each local file that the template refers to is passed to an ``Upload``, and the template is rewritten to refer
to the uploaded object. The bucket holds the zip of the functions, the topic rules and the template itself.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from botocore.exceptions import ClientError
from samtranslator.yaml_helper import yaml_parse

from fedgrass.console.stack import StackError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import LifecycleRuleTypeDef

Upload = Callable[[bytes, str], str]
"""Upload a file of this content and name suffix, and return its address: ``s3://bucket/key``."""
_KEPT_DAYS = 30  # CloudFormation reads an artifact during a deployment only
_MISSING = frozenset({"404", "NoSuchBucket", "NotFound"})
_FOREIGN = frozenset({"403", "AccessDenied", "Forbidden", "BucketAlreadyExists"})
_ELSEWHERE = frozenset({"301", "PermanentRedirect", "400", "AuthorizationHeaderMalformed"})


def read_template(template: Path) -> dict[str, Any]:
    """Return a CloudFormation template with its short forms (`!Sub`) expanded. Raises StackError."""
    try:
        document = yaml_parse(template.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"{template}: the template cannot be read: {error.strerror}"
        raise StackError(message) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        message = f"{template}: the template is not valid YAML: {error}"
        raise StackError(message) from error
    if not isinstance(document, dict) or not isinstance(document.get("Resources"), dict):
        message = f"{template}: the template has no Resources"
        raise StackError(message)
    return document


def packaged(template: Path, lambda_zip: Path, upload: Upload) -> bytes:
    """Upload the local files that a template refers to, and return the rewritten template as JSON.

    Every function with a local CodeUri gets the code of ``lambda_zip``, and every local ``AWS::Include`` is
    uploaded. All files are read before the first upload.

    Raises:
        StackError: a file cannot be read.
    """
    document = read_template(template)
    zipped = _content(lambda_zip, "the Lambda zip (built by package.py)")
    includes = [include for include in _includes(document) if _is_local(include.get("Location"))]
    snippets = [_content(template.parent / one["Location"], f"included by {template}") for one in includes]
    code = upload(zipped, lambda_zip.suffix)
    for properties in _function_properties(document):
        if _is_local(properties.get("CodeUri")):
            properties["CodeUri"] = code
    for include, snippet in zip(includes, snippets, strict=True):
        include["Location"] = upload(snippet, Path(include["Location"]).suffix)
    return json.dumps(document, default=str).encode()


def _content(path: Path, role: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"{path}: {role}, cannot be read: {error.strerror}"
        raise StackError(message) from error


def _function_properties(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the properties of every function, and the shared ones in Globals."""
    functions = [
        resource.setdefault("Properties", {})
        for resource in document["Resources"].values()
        if isinstance(resource, dict) and resource.get("Type") == "AWS::Serverless::Function"
    ]
    shared = (document.get("Globals") or {}).get("Function")
    return [*functions, shared] if isinstance(shared, dict) else functions


def _includes(node: object) -> list[dict[str, Any]]:
    """Return the parameters of every `Fn::Transform: {Name: AWS::Include}` below `node`."""
    if isinstance(node, list):
        return [found for item in node for found in _includes(item)]
    if not isinstance(node, dict):
        return []
    found = [include for value in node.values() for include in _includes(value)]
    transform = node.get("Fn::Transform")
    if isinstance(transform, dict) and transform.get("Name") == "AWS::Include":
        found.append(transform.setdefault("Parameters", {}))
    return found


def _is_local(location: object) -> bool:
    return isinstance(location, str) and not location.startswith(("s3://", "https://"))


class Artifacts:
    """A bucket of artifacts, with a prefix per stack.

    Args:
        s3: the boto3 client.
        account: the account that must own the bucket (12 digits).
        stack: the stack of the artifacts.
        bucket: an existing bucket; empty for the bucket that is named after account and region and created on
            demand.
    """

    def __init__(self, s3: "S3Client", account: str, stack: str, bucket: str = "") -> None:
        self._s3 = s3
        self._account = account
        self._region: str = s3.meta.region_name
        self.own = not bucket
        self.bucket = bucket or f"fedgrass-artifacts-{account}-{self._region}"
        self.prefix = f"{stack}/"
        self._created = False
        self._uploaded: list[str] = []

    def exists(self) -> bool:
        """Return whether the bucket exists.

        Raises:
            StackError: it belongs to another account, or is in another region.
        """
        try:
            answer = self._s3.head_bucket(Bucket=self.bucket, ExpectedBucketOwner=self._account)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in _MISSING:
                return False
            if code in _FOREIGN | _ELSEWHERE:
                raise self._refused(error) from error
            raise
        region = answer.get("BucketRegion", self._region)
        if region != self._region:
            message = (
                f"the bucket {self.bucket!r} is in {region}, and artifacts must be in the stack's region"
                f" {self._region}: choose another --artifact-bucket, or omit it"
            )
            raise StackError(message)
        return True

    def check(self) -> bool:
        """Return whether the bucket exists. Raises StackError if it can be neither used nor created."""
        found = self.exists()
        if not (found or self.own):
            message = f"there is no bucket {self.bucket!r} in account {self._account}: create it, or omit"
            message += " --artifact-bucket for one that is created and deleted automatically"
            raise StackError(message)
        return found

    def prepare(self) -> None:
        """Create the bucket if necessary; a bucket that cannot be secured is deleted. Raises StackError."""
        if self.check():
            return
        try:
            self._create()
        except ClientError as error:
            if error.response["Error"]["Code"] in _FOREIGN:
                raise self._refused(error) from error
            raise
        self._created = True
        try:
            self._secure()
        except BaseException:
            self._s3.delete_bucket(Bucket=self.bucket)
            raise

    def _create(self) -> None:
        place: Any = self._region  # the stubs list the regions that they know
        try:
            self._s3.create_bucket(
                Bucket=self.bucket, CreateBucketConfiguration={"LocationConstraint": place}
            )
        except ClientError as error:
            # The default region of S3 refuses its own name as a location constraint.
            if error.response["Error"]["Code"] != "InvalidLocationConstraint":
                raise
            self._s3.create_bucket(Bucket=self.bucket)

    def _secure(self) -> None:
        self._s3.put_public_access_block(
            Bucket=self.bucket,
            PublicAccessBlockConfiguration={
                "BlockPublicAcls": True,
                "IgnorePublicAcls": True,
                "BlockPublicPolicy": True,
                "RestrictPublicBuckets": True,
            },
        )
        arn = f"arn:{self._s3.meta.partition}:s3:::{self.bucket}"
        without_tls = {
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [arn, f"{arn}/*"],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [without_tls]})
        self._s3.put_bucket_policy(Bucket=self.bucket, Policy=policy)
        rule: LifecycleRuleTypeDef = {
            "ID": "expire",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "Expiration": {"Days": _KEPT_DAYS},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
        }
        self._s3.put_bucket_lifecycle_configuration(
            Bucket=self.bucket, LifecycleConfiguration={"Rules": [rule]}
        )

    def upload(self, body: bytes, ending: str) -> str:
        """Store a file under its checksum; return its address, ``s3://bucket/key``."""
        return f"s3://{self.bucket}/{self._put(body, ending)}"

    def upload_template(self, body: bytes) -> str:
        """Store a template; return the URL from which CloudFormation reads it."""
        return f"{self._s3.meta.endpoint_url}/{self.bucket}/{self._put(body, '.template.json')}"

    def _put(self, body: bytes, ending: str) -> str:
        key = f"{self.prefix}{hashlib.sha256(body).hexdigest()}{ending}"
        try:
            self._s3.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] not in _MISSING:
                raise
            self._uploaded.append(key)
        # Even if it exists: uploading it again restarts its expiration.
        self._s3.put_object(Bucket=self.bucket, Key=key, Body=body, ExpectedBucketOwner=self._account)
        return key

    def discard(self) -> None:
        """Delete the artifacts that this object uploaded, and the bucket if it created it."""
        for key in self._uploaded:
            self._s3.delete_object(Bucket=self.bucket, Key=key)
        self._uploaded.clear()
        if self._created:
            self._s3.delete_bucket(Bucket=self.bucket)
            self._created = False

    def keys(self) -> list[str]:
        """Return the keys of the stack's artifacts; empty if the bucket does not exist."""
        if not self.exists():
            return []
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def remove(self) -> bool:
        """Delete the stack's artifacts, then an empty automatic bucket; return whether it was deleted."""
        for key in self.keys():
            self._s3.delete_object(Bucket=self.bucket, Key=key)
        if not self.own or not self.exists():
            return False
        if self._s3.list_objects_v2(Bucket=self.bucket, MaxKeys=1).get("KeyCount", 0):
            return False  # other stacks' artifacts
        self._s3.delete_bucket(Bucket=self.bucket)
        return True

    def _refused(self, error: ClientError) -> StackError:
        code = error.response["Error"]["Code"]
        why = (
            f"is not in {self._region}"
            if code in _ELSEWHERE
            else f"does not belong to account {self._account}, or these credentials may not use it"
        )
        return StackError(
            f"the bucket {self.bucket!r} {why}: choose your own bucket by --artifact-bucket ({code})"
        )

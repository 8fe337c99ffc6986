"""What a stack is deployed from: its SAM template, packaged as `sam package` does, and a bucket.

Each local file that the template refers to is passed to an ``Upload``, and the template is rewritten to
point at the uploaded object. The bucket holds the functions' zip, the rules and the template itself.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from botocore.exceptions import ClientError
from samtranslator.yaml_helper import yaml_parse

from fedgrass.console.stack import StackError

Upload = Callable[[bytes, str], str]
"""Takes a file's content and the ending of its name, returns where it lies: ``s3://bucket/key``."""


def read_template(template: Path) -> dict[str, Any]:
    """Read a CloudFormation template, its short forms (`!Sub`) spelled out. Raises StackError."""
    try:
        document = yaml_parse(template.read_text(encoding="utf-8"))
    except OSError as exc:
        message = f"{template}: the template cannot be read: {exc.strerror}"
        raise StackError(message) from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        message = f"{template}: the template is not valid YAML: {exc}"
        raise StackError(message) from exc
    if not isinstance(document, dict) or not isinstance(document.get("Resources"), dict):
        message = f"{template}: the template has no Resources"
        raise StackError(message)
    return document


def packaged(template: Path, lambda_zip: Path, upload: Upload) -> bytes:
    """Upload what a template refers to and return the template, rewritten, as JSON.

    Every function whose CodeUri is local gets the code of ``lambda_zip``; every local ``AWS::Include`` is
    uploaded. All is read before anything is uploaded.

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
    except OSError as exc:
        message = f"{path}: {role}, cannot be read: {exc.strerror}"
        raise StackError(message) from exc


def _function_properties(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the properties of every function, and those that Globals gives to all."""
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


KEPT_DAYS = 30  # CloudFormation reads an artifact while it deploys, and never again
_MISSING = frozenset({"404", "NoSuchBucket", "NotFound"})
_FOREIGN = frozenset({"403", "AccessDenied", "Forbidden", "BucketAlreadyExists"})
_ELSEWHERE = frozenset({"301", "PermanentRedirect", "400", "AuthorizationHeaderMalformed"})


class Artifacts:
    """A bucket for artifacts, below a prefix per stack.

    Args:
        s3: the boto3 client.
        account: the 12 digits of the account that has to own the bucket.
        stack: whose artifacts they are.
        bucket: a bucket that exists; nothing takes the one named after account and region, which is made
            when it is needed.
    """

    def __init__(self, s3: Any, account: str, stack: str, bucket: str = "") -> None:
        self._s3 = s3
        self._account = account
        self._region: str = s3.meta.region_name
        self.own = not bucket
        self.bucket = bucket or f"fedgrass-artifacts-{account}-{self._region}"
        self.prefix = f"{stack}/"
        self._made = False
        self._new: list[str] = []

    def exists(self) -> bool:
        """Return whether the bucket is there.

        Raises:
            StackError: it belongs to another account or lies in another region.
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
            message = f"the bucket {self.bucket!r} lies in {region}, the stack in {self._region}"
            message += (
                ": artifacts have to lie in the stack's region; name another --artifact-bucket, or none"
            )
            raise StackError(message)
        return True

    def check(self) -> bool:
        """Return whether the bucket is there. Raises StackError if it cannot be used, nor made."""
        found = self.exists()
        if not (found or self.own):
            message = f"there is no bucket {self.bucket!r} in account {self._account}: make it, or leave"
            message += " --artifact-bucket away for one that is made and removed by itself"
            raise StackError(message)
        return found

    def prepare(self) -> None:
        """Make the bucket if it is ours to make. Raises StackError, and leaves no bucket half-made."""
        if self.check():
            return
        try:
            self._create()
        except ClientError as error:
            if error.response["Error"]["Code"] in _FOREIGN:
                raise self._refused(error) from error
            raise
        self._made = True
        try:
            self._guard()
        except BaseException:
            self._s3.delete_bucket(Bucket=self.bucket)
            raise

    def _create(self) -> None:
        place = {"LocationConstraint": self._region}
        try:
            self._s3.create_bucket(Bucket=self.bucket, CreateBucketConfiguration=place)
        except ClientError as error:
            # S3's first region does not take its own name.
            if error.response["Error"]["Code"] != "InvalidLocationConstraint":
                raise
            self._s3.create_bucket(Bucket=self.bucket)

    def _guard(self) -> None:
        closed = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
        self._s3.put_public_access_block(
            Bucket=self.bucket, PublicAccessBlockConfiguration=dict.fromkeys(closed, True)
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
        rule = {
            "ID": "expire",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "Expiration": {"Days": KEPT_DAYS},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
        }
        self._s3.put_bucket_lifecycle_configuration(
            Bucket=self.bucket, LifecycleConfiguration={"Rules": [rule]}
        )

    def upload(self, body: bytes, ending: str) -> str:
        """Store a file under its own checksum; return its address, ``s3://bucket/key``."""
        return f"s3://{self.bucket}/{self._put(body, ending)}"

    def upload_template(self, body: bytes) -> str:
        """Store a template; return the address at which CloudFormation reads it, with ``https``."""
        return f"{self._s3.meta.endpoint_url}/{self.bucket}/{self._put(body, '.template.json')}"

    def _put(self, body: bytes, ending: str) -> str:
        key = f"{self.prefix}{hashlib.sha256(body).hexdigest()}{ending}"
        try:
            self._s3.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] not in _MISSING:
                raise
            self._new.append(key)
        # Also if it is there: its time to expire begins anew.
        self._s3.put_object(Bucket=self.bucket, Key=key, Body=body, ExpectedBucketOwner=self._account)
        return key

    def take_back(self) -> None:
        """Remove what this deployment brought: its files, and the bucket if it made it."""
        for key in self._new:
            self._s3.delete_object(Bucket=self.bucket, Key=key)
        self._new.clear()
        if self._made:
            self._s3.delete_bucket(Bucket=self.bucket)
            self._made = False

    def keys(self) -> list[str]:
        """Return the keys of the stack's artifacts; none if there is no bucket."""
        if not self.exists():
            return []
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def remove(self) -> bool:
        """Remove the stack's artifacts, and our own bucket with the last ones; return whether that was so."""
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
            f"does not lie in {self._region}"
            if code in _ELSEWHERE
            else f"belongs to another account than {self._account}, or these credentials may not use it"
        )
        return StackError(f"the bucket {self.bucket!r} {why}: name a --artifact-bucket of your own ({code})")

"""Checks of the stack's data: the rules of the bucket, and the messages that could not be processed."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedgrass.console.deploy.deploy_cloud import is_emulated
from fedgrass.console.doctor.health_report import Examined, Finding, good, problem
from fedgrass.console.runs.dead_letters import DeadLetters
from fedgrass.console.stack import is_missing

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_EXPIRING = ("updates/", "logs/", "drafts/")  # prefixes whose objects a lifecycle rule deletes
_DEPLOY = "`fedgrass deploy cloud` restores the bucket's rules"


def check_bucket(examined: Examined) -> Iterator[Finding]:
    """Check versioning, public access and lifecycle rules of the bucket."""
    s3, bucket = examined.clients("s3"), examined.outputs["BucketName"]
    found: list[Finding] = []
    if s3.get_bucket_versioning(Bucket=bucket).get("Status") != "Enabled":
        text = f"{bucket} keeps no versions of its objects: an overwritten model is lost"
        found.append(problem("bucket", text, _DEPLOY))
    try:
        blocked = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    except Exception as error:
        if not is_missing(error):
            raise
        blocked = {}
    if not blocked or not all(blocked.values()):
        found.append(problem("bucket", f"{bucket} does not block public access", _DEPLOY))
    if not is_emulated(s3):  # the embedded cloud deletes nothing
        found += _expiry_findings(s3, bucket)
    yield from found or [good("bucket", f"{bucket}: versions, no public access, old objects are deleted")]


def _expiry_findings(s3: "S3Client", bucket: str) -> Iterator[Finding]:
    """Yield a finding for each prefix whose objects no lifecycle rule deletes."""
    try:
        rules = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    except Exception as error:
        if not is_missing(error):
            raise
        rules = []
    active: set[str] = {
        one.get("Filter", {}).get("Prefix", one.get("Prefix", ""))
        for one in rules
        if one.get("Status") == "Enabled" and "Expiration" in one
    }
    for prefix in _EXPIRING:
        if prefix not in active:
            text = f"{bucket} has no rule that deletes old objects below {prefix}: they cost more each month"
            yield problem("bucket", text, _DEPLOY)


def check_dead_letters(examined: Examined) -> Iterator[Finding]:
    """Check that no message waits in the dead-letter queue."""
    count = DeadLetters(examined.clients, examined.outputs).count()
    if count:
        text = f"{count:,} message{'' if count == 1 else 's'} could not be processed"
        remedy = "`fedgrass queue show` lists them, `fedgrass queue redrive` sends them back"
        yield problem("dead letters", text, remedy)
    else:
        yield good("dead letters", "none")

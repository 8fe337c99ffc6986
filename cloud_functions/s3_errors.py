"""Which answers of S3 concern one object, and which all of S3: the first refuse it, the second are retried.

A device chooses how its update is stored. It can ask for a storage class whose objects have to be restored
before they can be read, or encrypt with a key of its own: S3 then refuses that one object, for ever. Read as
an outage, this would keep a round waiting for a device that means harm.
"""

from botocore.exceptions import ClientError

from fedgrass.federation.aws_errors import is_transient

_SERVER_ERROR = 500  # what an error without a status counts as
# Answers about the account or the bucket: they say nothing about the object either. AccessDenied is not among
# them: an object that is encrypted with a key of another account gets it.
_OF_ACCOUNT_OR_BUCKET = frozenset(
    {
        "AccountProblem",
        "AllAccessDisabled",
        "AuthFailure",
        "AuthorizationHeaderMalformed",
        "InvalidBucketName",
        "InvalidBucketState",
        "InvalidSecurity",
        "NoSuchBucket",
        "NotSignedUp",
        "PermanentRedirect",
        "Redirect",
        "TemporaryRedirect",
    }
)
_MISSING = frozenset({"NoSuchKey", "NoSuchVersion", "404"})


def code_of(error: ClientError) -> str:
    """Return S3's word for an error."""
    return str(error.response.get("Error", {}).get("Code", "none"))


def is_missing(error: ClientError) -> bool:
    """Return whether an object is not there."""
    return code_of(error) in _MISSING


def concerns_all(error: ClientError) -> bool:
    """Return whether an error says nothing about the object that was asked for: it may pass."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", _SERVER_ERROR)
    code = code_of(error)
    # S3 hands on what KMS says, by names of its own.
    return code in _OF_ACCOUNT_OR_BUCKET or is_transient(code.removeprefix("KMS."), status)


def described(error: ClientError) -> str:
    """Return what S3 says of an object, in one line."""
    said = error.response.get("Error", {})
    text = " ".join(str(said.get("Message", "")).split())
    return f"{code_of(error)}: {text}" if text else code_of(error)

"""Which answers of S3 concern one object, and which all of S3: the first refuse it, the second are retried.

A device chooses how its update is stored. It can ask for a storage class whose objects have to be restored
before they can be read, or encrypt with a key of its own: S3 then refuses that one object, for ever. Read as
an outage, this would keep a round waiting for a device that means harm.
"""

from botocore.exceptions import ClientError

_SERVER_ERROR = 500  # from here on S3 says that the fault is its own
_PASSING_STATUS = frozenset({408, 429})
# Those of the 4xx that say nothing about the object, of
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html. AccessDenied is not among them: an
# object that is encrypted with a key of another account gets it.
_OF_ALL_OF_S3 = frozenset(
    {
        # throttled
        "BandwidthLimitExceeded",
        "KMS.ThrottlingException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        # the caller's credentials and clock
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidToken",
        "NotSignedUp",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "RequestTimeout",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
        # the account and the bucket
        "AccountProblem",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "InvalidBucketName",
        "InvalidBucketState",
        "NoSuchBucket",
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
    return status >= _SERVER_ERROR or status in _PASSING_STATUS or code_of(error) in _OF_ALL_OF_S3


def described(error: ClientError) -> str:
    """Return what S3 says of an object, in one line."""
    said = error.response.get("Error", {})
    text = " ".join(str(said.get("Message", "")).split())
    return f"{code_of(error)}: {text}" if text else code_of(error)

"""Which AWS errors are transient: one table for the devices, the cloud and the emulator.

A request that failed with a transient error can be retried. Some errors need new credentials first: the old
ones have expired, or were issued or used while the clock was wrong. A device without a battery-backed clock
boots with a wrong clock and is synchronized moments later.

The codes are those of S3 and AWS's common errors
(https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html).
"""

from enum import Enum

_SERVER_ERROR = 500  # statuses from here on are AWS's fault
_TRANSIENT_STATUS = frozenset({408, 429})

_BUSY = frozenset(
    {
        "BandwidthLimitExceeded",
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_CUT_SHORT = frozenset(
    {
        "BadDigest",  # the data was corrupted on the way
        "ConditionalRequestConflict",
        "IncompleteBody",
        "NoSuchUpload",  # the uploaded parts were removed: the next attempt starts with the first part
        "OperationAborted",
        "RequestTimeout",
        "RequestTimeoutException",
        "XAmzContentSHA256Mismatch",
    }
)
_STALE_CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)
_WRONG_CLOCK = frozenset(
    {
        "InvalidSignatureException",
        "RequestExpired",
        "RequestInTheFuture",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)


class Remedy(Enum):
    """The reaction to an error."""

    GIVE_UP = "give up"
    RETRY = "retry"
    RENEW_CREDENTIALS = "retry with new credentials"


def remedy(code: str, status: int = 0) -> Remedy:
    """Return how to react to an error.

    Args:
        code: AWS error code, such as ``SlowDown``; empty if the response had none.
        status: HTTP status; 0 without a response.
    """
    if code in _STALE_CREDENTIALS or code in _WRONG_CLOCK:
        return Remedy.RENEW_CREDENTIALS
    if code in _BUSY or code in _CUT_SHORT:
        return Remedy.RETRY
    if status == 0 or status >= _SERVER_ERROR or status in _TRANSIENT_STATUS:
        return Remedy.RETRY
    return Remedy.GIVE_UP


def suggests_wrong_clock(code: str) -> bool:
    """Return whether AWS may have refused a request because the sender's clock is wrong."""
    return code in _WRONG_CLOCK


def is_transient(code: str, status: int = 0) -> bool:
    """Return whether the same request may succeed later."""
    return remedy(code, status) is not Remedy.GIVE_UP

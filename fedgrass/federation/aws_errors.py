"""Which errors of AWS are transient: one table for devices, the cloud and the emulator.

An error that is transient is worth the same request again after a while. Some want new credentials first:
those that were used have ended, or were made or used with a clock that is wrong. A device without a clock
battery starts with such a clock, and gets the time a moment later.

The codes are those of S3 and of AWS's common errors
(https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html).
"""

from enum import Enum

_SERVER_ERROR = 500  # from here on AWS answers that the fault is its own
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
        "BadDigest",  # what arrived is not what was sent
        "ConditionalRequestConflict",
        "IncompleteBody",
        "NoSuchUpload",  # the parts of an upload were removed: the next attempt begins with the first
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
    """What can be done about an error."""

    GIVE_UP = "give up"
    RETRY = "retry"
    RENEW_CREDENTIALS = "retry with new credentials"


def remedy(code: str, status: int = 0) -> Remedy:
    """Return what helps against an error.

    Args:
        code: AWS's own, such as ``SlowDown``; empty if the answer had none.
        status: of HTTP; 0 if there was no answer.
    """
    if code in _STALE_CREDENTIALS or code in _WRONG_CLOCK:
        return Remedy.RENEW_CREDENTIALS
    if code in _BUSY or code in _CUT_SHORT:
        return Remedy.RETRY
    if status == 0 or status >= _SERVER_ERROR or status in _TRANSIENT_STATUS:
        return Remedy.RETRY
    return Remedy.GIVE_UP


def suggests_wrong_clock(code: str) -> bool:
    """Return whether AWS may have refused a request since the sender's clock is wrong."""
    return code in _WRONG_CLOCK


def is_transient(code: str, status: int = 0) -> bool:
    """Return whether the same request may succeed later."""
    return remedy(code, status) is not Remedy.GIVE_UP

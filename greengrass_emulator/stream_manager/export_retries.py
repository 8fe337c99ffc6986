"""Which errors of S3 an export is retried after; every other error is final.

Codes: S3's and AWS's common errors
(https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html).
"""

_SERVER_ERROR = 500
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
        "NoSuchUpload",  # its parts were removed: the next attempt begins with the first
        "OperationAborted",
        "RequestTimeout",
        "RequestTimeoutException",
        "XAmzContentSHA256Mismatch",
    }
)
_CREDENTIALS = frozenset(
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
_RETRIED = _BUSY | _CUT_SHORT | _CREDENTIALS | _WRONG_CLOCK


def is_transient(code: str, status: int = 0) -> bool:
    """Return whether the same request may succeed later.

    Args:
        code: AWS's error code, such as ``SlowDown``; empty if the response had none.
        status: the HTTP status; 0 without a response.
    """
    return code in _RETRIED or status == 0 or status >= _SERVER_ERROR or status in _TRANSIENT_STATUS

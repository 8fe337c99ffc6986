"""Chooses the requests to AWS that fail, and the responses to them."""

from dataclasses import dataclass, field

from tests.chaos.steps import Request

# Fractions of the requests that fail.
S3_ERROR, S3_SLOW, S3_CUT, SERVICE_ERROR, ANSWER_LOST, VERY_SLOW = 0.06, 0.04, 0.03, 0.004, 0.006, 0.0005
_S3_ERRORS = {500: "InternalError", 503: "SlowDown"}


@dataclass(frozen=True)
class Answer:
    """A response of AWS."""

    status: int
    body: bytes
    headers: list[tuple[str, str]] = field(default_factory=list)


def draw_fault(request: Request, client: str, drawn: float) -> str:
    """Return the fault of a client's request for a number drawn from 0 to 1; empty for none."""
    shares = [("very_slow", VERY_SLOW if client == "averager" else 0.0)]
    if request.service == "s3" and request.method in {"GET", "PUT"}:
        shares += [
            ("s3_500", S3_ERROR / 2),
            ("s3_503", S3_ERROR / 2),
            ("s3_slow", S3_SLOW),
            ("s3_cut", S3_CUT),
        ]
    elif client != "devices":
        shares += [("service_500", SERVICE_ERROR)]
    shares += [("answer_lost", ANSWER_LOST)]
    for fault, share in shares:
        if drawn < share:
            return fault
        drawn -= share
    return ""


def failure(fault: str) -> Answer:
    """Return the response of a service that fails."""
    if fault == "service_500":
        text = '{"__type": "InternalServerError", "message": "a fault of the campaign"}'
        return Answer(500, text.encode(), [("Content-Type", "application/x-amz-json-1.0")])
    status = int(fault.removeprefix("s3_"))
    text = f"<Error><Code>{_S3_ERRORS[status]}</Code><Message>a fault of the campaign</Message></Error>"
    return Answer(status, text.encode(), [("Content-Type", "application/xml")])

"""No stack, the wrong region, expired or invalid credentials: each is one line with the way out."""

from typing import Any

import pytest
from botocore.exceptions import ClientError, UnauthorizedSSOTokenError

from fedgrass.console import stack
from fedgrass.console.stack import StackError


class Formation:
    """A client of CloudFormation that raises an error."""

    class meta:  # noqa: N801 - botocore's name
        region_name = "eu-west-1"

    def __init__(self, error: Exception) -> None:
        self._error = error

    def describe_stacks(self, **_: object) -> dict[str, Any]:
        raise self._error


def refusal(code: str, text: str = "no") -> ClientError:
    answer: Any = {
        "Error": {"Code": code, "Message": text},
        "ResponseMetadata": {"RequestId": "1", "HTTPHeaders": {}},
    }
    return ClientError(answer, "DescribeStacks")


def reason(error: Exception) -> str:
    clients: Any = lambda _service: Formation(error)  # noqa: E731 - one client
    with pytest.raises(StackError) as refused:
        stack.outputs("presses", clients)
    text = str(refused.value)
    assert "\n" not in text
    assert text.startswith("the stack 'presses' in eu-west-1 cannot be read: ")
    return text


@pytest.mark.parametrize("code", ["ExpiredToken", "ExpiredTokenException", "RequestExpired"])
def test_expired_credentials_are_called_so_with_the_way_to_new_ones(code: str) -> None:
    assert "the credentials have expired: log in again (`aws sso login`)" in reason(refusal(code))


def test_an_expired_login_is_called_so_too() -> None:
    assert "the credentials have expired: log in again" in reason(UnauthorizedSSOTokenError())


@pytest.mark.parametrize("code", ["InvalidClientTokenId", "UnrecognizedClientException"])
def test_credentials_that_are_not_valid_are_called_so(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert "the credentials are not valid: choose others by --profile" in reason(refusal(code))


def test_the_credentials_of_an_earlier_demo_are_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")
    text = "The security token included in the request is invalid."
    again = "One that was started again has printed a new export line"
    assert again in reason(refusal("AccessDeniedException", text))
    assert again not in reason(refusal("AccessDeniedException", "not authorized to perform"))


def test_a_stack_that_is_not_in_the_region_is_named_with_both() -> None:
    text = reason(refusal("ValidationError", "Stack with id presses does not exist"))
    assert text.endswith(
        "name it by --stack and its region by --region, or deploy it: `fedgrass deploy cloud`"
    )


def test_another_refusal_is_left_as_it_is() -> None:
    assert reason(refusal("AccessDenied", "not allowed")).endswith("not allowed")

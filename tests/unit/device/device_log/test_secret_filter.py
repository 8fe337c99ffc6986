"""Credentials in log lines are hidden before the lines are kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.trainer.device_log.secret_filter import hide_secrets, secrets_of

KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
SECRETS = [
    (f"aws_secret_access_key = {KEY}", KEY),
    (f'{{"SecretAccessKey": "{KEY}", "Expiration": "2026"}}', KEY),
    ('{"Token": "FwoGZXIvYXdzEBYaDHqa0"}', "FwoGZXIvYXdzEBYaDHqa0"),
    ("using AKIAIOSFODNN7EXAMPLE now", "AKIAIOSFODNN7EXAMPLE"),
    ("using ASIAIOSFODNN7EXAMPLE now", "ASIAIOSFODNN7EXAMPLE"),
    (
        "GET https://b.s3.amazonaws.com/k?X-Amz-Signature=fe5f80f77d5fa3beca038a248ff027d0&x=1",
        "fe5f80f77d5fa3be",
    ),
    ("GET /k?X-Amz-Security-Token=IQoJb3JpZ2luX2VjEN&y=2", "IQoJb3JpZ2luX2VjEN"),
    ("Authorization: AWS4-HMAC-SHA256 Credential=x, Signature=fe5f80f77d5fa3be", "fe5f80f77d5fa3be"),
    ("{'Authorization': 'Basic c2VjcmV0OnNlY3JldA=='}", "c2VjcmV0OnNlY3JldA"),
    ("sent Bearer abc.def.ghi to the proxy", "abc.def.ghi"),
    ("password=hunter22", "hunter22"),
    ("api_key: 12345abc", "12345abc"),
    ("connecting to postgres://me:hunter22@db/line", "hunter22"),
    ("-----BEGIN RSA PRIVATE KEY-----\\nMIIEow\\n-----END RSA PRIVATE KEY-----", "MIIEow"),
    ("-----BEGIN PRIVATE KEY-----", "PRIVATE KEY"),
    ("MIIEowIBAAKCAQEA0Z3VS5JJcds3xfn/ygWyF8PbnGy0AHB7MbzYLdZ7ZvVy7F7V", "MIIEowIBAAKC"),
]


@pytest.mark.parametrize(("line", "secret"), SECRETS)
def test_a_credential_is_hidden(line: str, secret: str) -> None:
    assert secret not in hide_secrets(line)
    assert "[hidden]" in hide_secrets(line)


def test_what_surrounds_a_credential_stays() -> None:
    line = f"cannot put: aws_secret_access_key={KEY} region=eu-west-1"
    assert hide_secrets(line) == "cannot put: aws_secret_access_key=[hidden] region=eu-west-1"


def test_secrets_of_the_environment_are_hidden_wherever_they_are() -> None:
    environment = {
        "SVCUID": "0123456789ABCDEF",
        "MY_DB_PASSWORD": "a b c d e f",
        "HOME": "/home/gg_component",
    }
    line = "token exchange refused 0123456789ABCDEF; a b c d e f; /home/gg_component"
    assert hide_secrets(line, secrets_of(environment)) == (
        "token exchange refused [hidden]; [hidden]; /home/gg_component"
    )


@pytest.mark.parametrize(
    "line",
    [
        "INFO run-a/1/1: uploaded 24928 bytes in 0.02 s",
        "INFO the model has the SHA-256 " + "0a" * 32,
        "0a" * 32,
        "INFO in fleet plant as press-1",
        "WARNING /work/credentials cannot be read",
        "WARNING cannot connect to https://b.s3.eu-west-1.amazonaws.com:443/models/a/0: timed out",
        "credentials of press-1 are not there yet: the credentials provider did not answer",
    ],
)
def test_ordinary_lines_stay_as_they_are(line: str) -> None:
    # The file names of credentials are no secrets, nor are short values.
    environment = {"AWS_SHARED_CREDENTIALS_FILE": "/work/credentials", "TOKENS": "1"}
    assert hide_secrets(line, secrets_of(environment)) == line


@given(st.text(st.sampled_from("secret:= AKIA0bearer/@-BEGIN PRIVATE KEY\n"), max_size=4_000))
def test_any_line_is_filtered(line: str) -> None:
    assert len(hide_secrets(line)) <= 9 * len(line) + 9

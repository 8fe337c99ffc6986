"""The type of a function that returns the boto3 client of a service, such as ``stack.client``.

Each service has its own client type in boto3-stubs, which are installed for the type checker only.
"""

from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_iot import IoTClient
    from mypy_boto3_iot_data import IoTDataPlaneClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sts import STSClient


class Clients(Protocol):
    """Return the boto3 client of a service: ``clients("s3")``."""

    @overload
    def __call__(self, service: Literal["cloudformation"], /) -> "CloudFormationClient": ...
    @overload
    def __call__(self, service: Literal["dynamodb"], /) -> "DynamoDBClient": ...
    @overload
    def __call__(self, service: Literal["iot"], /) -> "IoTClient": ...
    @overload
    def __call__(self, service: Literal["iot-data"], /) -> "IoTDataPlaneClient": ...
    @overload
    def __call__(self, service: Literal["lambda"], /) -> "LambdaClient": ...
    @overload
    def __call__(self, service: Literal["s3"], /) -> "S3Client": ...
    @overload
    def __call__(self, service: Literal["sqs"], /) -> "SQSClient": ...
    @overload
    def __call__(self, service: Literal["sts"], /) -> "STSClient": ...
    @overload  # greengrassv2 and logs, whose stubs are not installed
    def __call__(self, service: str, /) -> Any: ...

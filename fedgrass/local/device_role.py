"""What the AWS IoT credentials provider makes of the device role for one thing.

It puts the thing's name in for ``${credentials-iot:ThingName}`` in the role's policies. The embedded cloud
does not know that variable, so it is put in here, and what comes out is given to the thing: as the policy of
its session, or, where policies count, as a role of its own.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fedgrass.local.cloud import EmbeddedCloud

if TYPE_CHECKING:
    from mypy_boto3_sts.type_defs import CredentialsTypeDef

VARIABLE = "${credentials-iot:ThingName}"
LONGEST_NAME = 64  # of a role, and of a session


def assume(cloud: EmbeddedCloud, role_arn: str, thing: str) -> CredentialsTypeDef:
    """Return temporary credentials of the device role as it is for one thing."""
    policy = policy_of(cloud, role_arn, thing)
    session = thing[:LONGEST_NAME]
    sts = cloud.client("sts")
    if cloud.enforces:
        own = _role_of_its_own(cloud, thing, policy)
        answer = sts.assume_role(RoleArn=own, RoleSessionName=session)
    else:
        answer = sts.assume_role(RoleArn=role_arn, RoleSessionName=session, Policy=policy)
    credentials: CredentialsTypeDef = answer["Credentials"]
    return credentials


def policy_of(cloud: EmbeddedCloud, role_arn: str, thing: str) -> str:
    """Return what the role allows a thing, as one policy document."""
    iam, role = cloud.client("iam"), role_arn.rsplit("/", 1)[-1]
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    documents = [iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in names]
    statements = [statement for document in documents for statement in document["Statement"]]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}).replace(VARIABLE, thing)


def _role_of_its_own(cloud: EmbeddedCloud, thing: str, policy: str) -> str:
    """Return the ARN of a role that has this policy, and that the account's owner may assume.

    The device role itself can be assumed by the credentials provider alone, and names no thing.
    """
    iam, name = cloud.client("iam"), f"thing-{thing}"[:LONGEST_NAME]
    owner = {"AWS": cloud.client("sts").get_caller_identity()["Arn"]}
    trust = {"Effect": "Allow", "Principal": owner, "Action": "sts:AssumeRole"}
    try:
        iam.create_role(
            RoleName=name,
            AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
        )
    except iam.exceptions.EntityAlreadyExistsException:
        # Credentials are renewed: the role is there, and gets the policy as it is now.
        iam.update_assume_role_policy(
            RoleName=name, PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        )
    iam.put_role_policy(RoleName=name, PolicyName="thing", PolicyDocument=policy)
    arn: str = iam.get_role(RoleName=name)["Role"]["Arn"]
    return arn

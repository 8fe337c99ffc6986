"""What one core device needs: its IoT policy, and the files that are copied to it.

The policy holds what Greengrass itself needs of AWS IoT. Each device has a policy of its own, since AWS
does not guarantee thing policy variables for core devices; the fleet's topics are in the stack's device
policy. provisioning/fleet.yaml repeats the policy for devices that register by a claim. The files are the
private key, the certificate, the nucleus's configuration and an installer.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from fedgrass.federation.errors import SettingsError

LONGEST_NAME = 128
LARGEST_DOCUMENT = 2048  # characters, without white space
# Of Greengrass's data plane, which knows no finer resource for a device's certificate.
DATA_PLANE = (
    "greengrass:GetComponentVersionArtifact",
    "greengrass:GetDeploymentConfiguration",
    "greengrass:ListThingGroupsForCoreDevice",
    "greengrass:ResolveComponentCandidates",
)


def policy_name(fleet: str, thing: str) -> str:
    """Return the name of a core device's policy; another one for each thing."""
    name = f"fedgrass-{fleet}-core-{thing.replace(':', '.')}"  # a thing's name has no dot of its own
    if len(name) <= LONGEST_NAME:
        return name
    return f"fedgrass-{fleet}-core-{hashlib.sha256(thing.encode()).hexdigest()[:32]}"


def core_policy(thing: str, role_alias: str, *, partition: str, region: str, account: str) -> dict[str, Any]:
    """Return the policy document of one core device.

    Args:
        thing: its name.
        role_alias: through which it gets credentials.
        partition: such as ``aws``.
        region: as AWS spells it.
        account: 12 digits.

    Raises:
        SettingsError: the name is so long that the document is larger than AWS takes.
    """
    iot = f"arn:{partition}:iot:{region}:{account}:"
    own = f"$aws/things/{thing}"
    jobs_and_shadows = ("jobs/*", "shadow/*")
    said = ("greengrass/health/json", "greengrassv2/health/json", *jobs_and_shadows)
    document = {
        "Version": "2012-10-17",
        "Statement": [
            # The classic nucleus opens more connections as it needs them: thing, thing#2, ...
            _allow(["iot:Connect"], [f"{iot}client/{thing}", f"{iot}client/{thing}#*"]),
            _allow(["iot:Publish", "iot:Receive"], [f"{iot}topic/{own}/{what}" for what in said]),
            _allow(["iot:Subscribe"], [f"{iot}topicfilter/{own}/{what}" for what in jobs_and_shadows]),
            _allow(["iot:AssumeRoleWithCertificate"], [f"{iot}rolealias/{role_alias}"]),
            _allow(list(DATA_PLANE), ["*"]),
        ],
    }
    if len(json.dumps(document, separators=(",", ":"))) > LARGEST_DOCUMENT:
        message = (
            f"the thing name {thing!r} is too long: its policy has more than {LARGEST_DOCUMENT} characters"
        )
        raise SettingsError(message)
    return document


def _allow(actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": resources}


ROOT_CA = "https://www.amazontrust.com/repository/AmazonRootCA1.pem"
RELEASES = "https://d2s8p88vqu9w66.cloudfront.net/releases"
KEY, CERTIFICATE, CONFIGURATION, INSTALLER = "private.key", "certificate.pem", "config.yaml", "install.sh"
RECORD = "provisioned.json"
FILES = (KEY, CERTIFICATE, CONFIGURATION, INSTALLER, RECORD)
NUCLEI = {"classic": "/greengrass/v2", "lite": "/var/lib/greengrass"}  # and where each has its root
# Last of its folder by name; what Nucleus Lite came with, such as its Debian package's file, lies there too.
LITE_CONFIGURATION = "/etc/greengrass/config.d/zz-fedgrass.yaml"
LITE_USER = "gg_component:gg_component"  # runs components; ggcore owns the device's private key
_PRIVATE = 0o600
_OWN_FOLDER = 0o700


class CoreDevice(Struct, frozen=True, kw_only=True):
    """What a nucleus has to know of its device and of AWS."""

    thing: str
    region: str
    data_endpoint: str
    credentials_endpoint: str
    role_alias: str
    nucleus: str = "classic"
    nucleus_version: str = ""  # of the classic one


def configuration(device: CoreDevice) -> dict[str, Any]:
    """Return the nucleus's ``config.yaml``."""
    root = NUCLEI[device.nucleus]
    credentials = root if device.nucleus == "classic" else f"{root}/credentials"
    own: dict[str, Any] = {
        "awsRegion": device.region,
        "iotRoleAlias": device.role_alias,
        "iotDataEndpoint": device.data_endpoint,
        "iotCredEndpoint": device.credentials_endpoint,
    }
    service: dict[str, Any] = {"componentType": "NUCLEUS", "configuration": own}
    if device.nucleus == "classic":
        service["version"] = device.nucleus_version
    else:
        own["runWithDefault"] = {"posixUser": LITE_USER}
        own["greengrassDataPlanePort"] = "8443"
    name = "aws.greengrass.Nucleus" if device.nucleus == "classic" else "aws.greengrass.NucleusLite"
    system = {
        "certificateFilePath": f"{credentials}/{CERTIFICATE}",
        "privateKeyPath": f"{credentials}/{KEY}",
        "rootCaPath": f"{credentials}/AmazonRootCA1.pem",
        # The classic nucleus's guide spells it one way, the lite one's the other.
        "rootpath" if device.nucleus == "classic" else "rootPath": root,
        "thingName": device.thing,
    }
    return {"system": system, "services": {name: service}}


def installer(device: CoreDevice) -> str:
    """Return the shell script that installs the nucleus, or configures the lite one, on the device."""
    return (_CLASSIC if device.nucleus == "classic" else _LITE).format(
        thing=device.thing,
        version=device.nucleus_version,
        releases=RELEASES,
        root_ca=ROOT_CA,
        lite_configuration=LITE_CONFIGURATION,
        lite_user=LITE_USER,
    )


def write_private(path: Path, content: bytes) -> None:
    """Write a file that nobody else can read, whole or not at all."""
    path.parent.mkdir(mode=_OWN_FOLDER, parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def write_device_files(folder: Path, device: CoreDevice) -> None:
    """Write ``config.yaml`` and ``install.sh``."""
    text = yaml.safe_dump(configuration(device), sort_keys=False)
    write_private(folder / CONFIGURATION, text.encode())
    write_private(folder / INSTALLER, installer(device).encode())


_CLASSIC = """\
#!/bin/sh
# Installs the Greengrass nucleus {version} on {thing}. Wants Java 11 or later, curl and unzip.
# Run it as root in the folder that holds it:   sudo sh install.sh
# Undo:   systemctl disable --now greengrass.service
#         rm -r /greengrass/v2 /etc/systemd/system/greengrass.service
set -eu
cd "$(dirname "$0")"
for program in java curl unzip; do
    command -v "$program" >/dev/null || {{ echo "install $program first" >&2; exit 1; }}
done
install -d -m 755 /greengrass/v2
install -m 600 private.key /greengrass/v2/private.key
install -m 644 certificate.pem /greengrass/v2/certificate.pem
curl --fail --silent --show-error --output /greengrass/v2/AmazonRootCA1.pem {root_ca}
unpacked="$(mktemp -d)"
trap 'rm -rf "$unpacked"' EXIT
curl --fail --silent --show-error --output "$unpacked/nucleus.zip" {releases}/greengrass-{version}.zip
unzip -q "$unpacked/nucleus.zip" -d "$unpacked/nucleus"
java -Droot=/greengrass/v2 -Dlog.store=FILE -jar "$unpacked/nucleus/lib/Greengrass.jar" \\
    --init-config config.yaml --component-default-user ggc_user:ggc_group --setup-system-service true
"""

_LITE = r"""#!/bin/sh
# Configures Greengrass Nucleus Lite, which has to be installed already, for {thing}.
# Run it as root in the folder that holds it:   sudo sh install.sh
# Undo:   systemctl stop greengrass-lite.target; rm -r {lite_configuration} /var/lib/greengrass/*
#         (the posixUser of other files in config.d stays as this script set it)
set -eu
cd "$(dirname "$0")"
getent passwd ggcore >/dev/null || {{ echo "install Greengrass Nucleus Lite first" >&2; exit 1; }}
install -d -o ggcore -g ggcore -m 700 /var/lib/greengrass/credentials
install -o ggcore -g ggcore -m 600 private.key certificate.pem /var/lib/greengrass/credentials/
curl --fail --silent --show-error --output /var/lib/greengrass/credentials/AmazonRootCA1.pem {root_ca}
chmod 644 /var/lib/greengrass/credentials/AmazonRootCA1.pem
systemctl stop greengrass-lite.target
rm -f /var/lib/greengrass/config.db
# Every file of config.d is read after config.yaml, in no order that is promised, and the last one wins. The
# Debian package has one there that runs components as ggcore, the owner of the private key: so all of them
# have to name the same user.
install -d /etc/greengrass/config.d
for other in /etc/greengrass/config.yaml /etc/greengrass/config.d/*; do
    [ -f "$other" ] || continue
    sed -i 's/^\([[:space:]]*posixUser:\).*/\1 "{lite_user}"/' "$other"
done
install -m 644 config.yaml {lite_configuration}
getent passwd gg_component >/dev/null || useradd --system --user-group --no-create-home gg_component
systemctl start greengrass-lite.target
"""

"""The IoT policy of a core device, and the files to copy to it.

The policy grants what Greengrass itself needs of AWS IoT; the fleet's topics are in the device policy of the
stack. Each device has its own policy, because AWS does not guarantee thing policy variables for core devices.
provisioning/fleet.yaml repeats the policy for devices that are provisioned by claim. The files are the
private key, the certificate, the configuration of the nucleus and an installer.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from components.runtime.atomic_file import write_atomically
from fedgrass.federation.errors import SettingsError

_LONGEST_NAME = 128  # of an IoT policy
LARGEST_DOCUMENT = 2048  # of an IoT policy, in characters without white space
# The data plane of Greengrass has no narrower resource than * for the certificate of a device.
_DATA_PLANE = (
    "greengrass:GetComponentVersionArtifact",
    "greengrass:GetDeploymentConfiguration",
    "greengrass:ListThingGroupsForCoreDevice",
    "greengrass:ResolveComponentCandidates",
)
_ROOT_CA = "https://www.amazontrust.com/repository/AmazonRootCA1.pem"
_RELEASES = "https://d2s8p88vqu9w66.cloudfront.net/releases"
KEY, CERTIFICATE, CONFIGURATION, INSTALLER = "private.key", "certificate.pem", "config.yaml", "install.sh"
RECORD = "provisioned.json"
FILES = (KEY, CERTIFICATE, CONFIGURATION, INSTALLER, RECORD)
_ROOTS = {"classic": "/greengrass/v2", "lite": "/var/lib/greengrass"}  # of each nucleus
# The last file of its folder by name, which also has the file of the Debian package of Nucleus Lite.
_LITE_CONFIGURATION = "/etc/greengrass/config.d/zz-fedgrass.yaml"
_LITE_USER = "gg_component:gg_component"  # runs components; ggcore owns the private key of the device
_PRIVATE = 0o600
_PRIVATE_FOLDER = 0o700

_CLASSIC = """\
#!/bin/sh
# Installs the Greengrass nucleus {version} on {thing}. Needs Java 11 or later, curl and unzip.
# Run it as root in its folder:   sudo sh install.sh
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
# Configures Greengrass Nucleus Lite, which must be installed, for {thing}.
# Run it as root in its folder:   sudo sh install.sh
# Undo:   systemctl stop greengrass-lite.target; rm -r {lite_configuration} /var/lib/greengrass/*
#         (this does not restore the posixUser of other files in config.d)
set -eu
cd "$(dirname "$0")"
getent passwd ggcore >/dev/null || {{ echo "install Greengrass Nucleus Lite first" >&2; exit 1; }}
install -d -o ggcore -g ggcore -m 700 /var/lib/greengrass/credentials
install -o ggcore -g ggcore -m 600 private.key certificate.pem /var/lib/greengrass/credentials/
curl --fail --silent --show-error --output /var/lib/greengrass/credentials/AmazonRootCA1.pem {root_ca}
chmod 644 /var/lib/greengrass/credentials/AmazonRootCA1.pem
systemctl stop greengrass-lite.target
rm -f /var/lib/greengrass/config.db
# The files of config.d are read after config.yaml, in unspecified order, and the last one wins. The file of
# the Debian package runs components as ggcore, the owner of the private key, so all files must name the
# same user.
install -d /etc/greengrass/config.d
for other in /etc/greengrass/config.yaml /etc/greengrass/config.d/*; do
    [ -f "$other" ] || continue
    sed -i 's/^\([[:space:]]*posixUser:\).*/\1 "{lite_user}"/' "$other"
done
install -m 644 config.yaml {lite_configuration}
getent passwd gg_component >/dev/null || useradd --system --user-group --no-create-home gg_component
systemctl start greengrass-lite.target
"""


def policy_name(fleet: str, thing: str) -> str:
    """Return the name of a core device's policy, which is unique for each thing."""
    name = f"fedgrass-{fleet}-core-{thing.replace(':', '.')}"  # names of things have no dots
    if len(name) <= _LONGEST_NAME:
        return name
    return f"fedgrass-{fleet}-core-{hashlib.sha256(thing.encode()).hexdigest()[:32]}"


def core_policy(thing: str, role_alias: str, *, partition: str, region: str, account: str) -> dict[str, Any]:
    """Return the policy document of one core device.

    Args:
        thing: name of the thing.
        role_alias: alias of the role whose credentials the device gets.
        partition: such as ``aws``.
        region: name of the AWS region.
        account: 12 digits.

    Raises:
        SettingsError: the thing's name is so long that the document exceeds the limit of AWS.
    """
    iot = f"arn:{partition}:iot:{region}:{account}:"
    prefix = f"$aws/things/{thing}"
    jobs_and_shadows = ("jobs/*", "shadow/*")
    published = ("greengrass/health/json", "greengrassv2/health/json", *jobs_and_shadows)
    document = {
        "Version": "2012-10-17",
        "Statement": [
            # The classic nucleus opens further connections on demand: thing, thing#2, ...
            _allow(["iot:Connect"], [f"{iot}client/{thing}", f"{iot}client/{thing}#*"]),
            _allow(["iot:Publish", "iot:Receive"], [f"{iot}topic/{prefix}/{what}" for what in published]),
            _allow(["iot:Subscribe"], [f"{iot}topicfilter/{prefix}/{what}" for what in jobs_and_shadows]),
            _allow(["iot:AssumeRoleWithCertificate"], [f"{iot}rolealias/{role_alias}"]),
            _allow(list(_DATA_PLANE), ["*"]),
        ],
    }
    if len(json.dumps(document, separators=(",", ":"))) > LARGEST_DOCUMENT:
        message = (
            f"the thing name {thing!r} is too long: its policy exceeds the {LARGEST_DOCUMENT:,} characters"
            " that AWS takes; choose a shorter name"
        )
        raise SettingsError(message)
    return document


def _allow(actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": resources}


class CoreDevice(Struct, frozen=True, kw_only=True):
    """The values that a nucleus needs of its device and of AWS."""

    thing: str
    region: str
    data_endpoint: str
    credentials_endpoint: str
    role_alias: str
    nucleus: str = "classic"
    nucleus_version: str = ""  # of the classic nucleus


def configuration(device: CoreDevice) -> dict[str, Any]:
    """Return the content of the nucleus's ``config.yaml``."""
    root = _ROOTS[device.nucleus]
    credentials = root if device.nucleus == "classic" else f"{root}/credentials"
    values: dict[str, Any] = {
        "awsRegion": device.region,
        "iotRoleAlias": device.role_alias,
        "iotDataEndpoint": device.data_endpoint,
        "iotCredEndpoint": device.credentials_endpoint,
    }
    service: dict[str, Any] = {"componentType": "NUCLEUS", "configuration": values}
    if device.nucleus == "classic":
        service["version"] = device.nucleus_version
    else:
        values["runWithDefault"] = {"posixUser": _LITE_USER}
        values["greengrassDataPlanePort"] = "8443"
    name = "aws.greengrass.Nucleus" if device.nucleus == "classic" else "aws.greengrass.NucleusLite"
    system = {
        "certificateFilePath": f"{credentials}/{CERTIFICATE}",
        "privateKeyPath": f"{credentials}/{KEY}",
        "rootCaPath": f"{credentials}/AmazonRootCA1.pem",
        # The guides of the two nuclei spell this key differently.
        "rootpath" if device.nucleus == "classic" else "rootPath": root,
        "thingName": device.thing,
    }
    return {"system": system, "services": {name: service}}


def installer(device: CoreDevice) -> str:
    """Return the shell script that installs the classic nucleus or configures Nucleus Lite."""
    return (_CLASSIC if device.nucleus == "classic" else _LITE).format(
        thing=device.thing,
        version=device.nucleus_version,
        releases=_RELEASES,
        root_ca=_ROOT_CA,
        lite_configuration=_LITE_CONFIGURATION,
        lite_user=_LITE_USER,
    )


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, atomically."""
    path.parent.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
    write_atomically(path, content, mode=_PRIVATE)


def write_device_files(folder: Path, device: CoreDevice) -> None:
    """Write ``config.yaml`` and ``install.sh`` to ``folder``."""
    text = yaml.safe_dump(configuration(device), sort_keys=False)
    write_private(folder / CONFIGURATION, text.encode())
    write_private(folder / INSTALLER, installer(device).encode())

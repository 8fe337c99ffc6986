"""Tells systemd how a device without Greengrass does (sd_notify(3))."""

import logging
import os
import socket

TELL_SECONDS = 1.0
log = logging.getLogger(__name__)


def tell_ready() -> None:
    """Tell systemd that the device is in its fleet, if systemd wants to know (Type=notify)."""
    if not (place := os.environ.get("NOTIFY_SOCKET")):
        return
    # A name that begins with @ is in Linux's abstract namespace (sd_notify(3)).
    address = "\0" + place[1:] if place.startswith("@") else place
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.settimeout(TELL_SECONDS)
            told.sendto(b"READY=1", address)
    except OSError as error:
        log.info("systemd could not be told: %s", error)

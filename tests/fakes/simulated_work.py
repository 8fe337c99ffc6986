"""Assignments for virtual devices, as the cloud announces them."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fedgrass.federation.messages import Announcement
from fedgrass.federation.weights import sha256
from fedgrass.simulation.clients.client_trainer import ClientWork
from fedgrass.simulation.fleets.device_conditions import DeviceConditions

TASK = "blobs"
MODEL_KEY = "runs/run/models/000000.safetensors"


def devices(count: int) -> list[DeviceConditions]:
    return [DeviceConditions(name=f"device-{number:05}", share=number) for number in range(count)]


def announced(
    model: bytes, *, number: int = 1, settings: Mapping[str, Any] | None = None, **others: Any
) -> Announcement:
    announcement = Announcement(
        run="run",
        round=number,
        attempt=1,
        work="train",
        task=TASK,
        announced_at=1,
        deadline_seconds=600,
        bucket="bucket",
        model_key=MODEL_KEY,
        model_sha256=sha256(model),
        model_bytes=len(model),
        settings=dict(settings or {}),
    )
    return msgspec.structs.replace(announcement, **others)


def work_for(fleet: Sequence[DeviceConditions], announcement: Announcement) -> list[ClientWork]:
    return [ClientWork(device, announcement, 7 * device.share + announcement.round) for device in fleet]

"""The JSON of ``fedgrass devices`` equals the golden files, and every field is on the page."""

import json
from pathlib import Path

import msgspec
import pytest

from fedgrass.console.devices.device_history import WorkRecord, WorkTimes
from fedgrass.console.devices.device_records import device_record
from fedgrass.console.devices.device_registration import DeviceCertificate, DeviceRegistration
from fedgrass.console.devices.device_report import Assignment, DeviceReport
from fedgrass.console.devices.device_summary import summarize_devices
from fedgrass.console.devices.registered_devices import ForgottenDevice, page_of
from fedgrass.console.devices.slow_parts import compare_speed
from fedgrass.console.results import show_result
from fedgrass.federation.selection import Candidate
from tests.documents.golden_files import fields, golden_text

AT = 1_700_000_000_000
PRESS = Candidate(
    "press-1",
    AT,
    frozenset({"digits", "cracks"}),
    60,
    {
        "state": "idle",
        "version": "0.4.0",
        "uptime_seconds": 3600.0,
        "expires_at": 1_702_592_000.0,
        "network": "wifi",
        "battery": 80.0,
        "mains": True,
        "work_error": "waits for credentials",
    },
)
LATHE = Candidate("lathe-2", AT - 900_000, frozenset({"digits"}), 40, {"state": "working", "battery": 20.0})
OWN = WorkTimes(
    turnaround_seconds=34.0,
    download_seconds=1.0,
    evaluate_seconds=1.0,
    train_seconds=30.0,
    upload_seconds=1.0,
    other_seconds=1.0,
    examples=40.0,
)
USUAL = msgspec.structs.replace(OWN, turnaround_seconds=6.0, train_seconds=2.0)


def listed() -> object:
    return page_of(summarize_devices([LATHE, PRESS], 3, AT - 300_000, 300), "", 1)


def shown() -> object:
    replied = WorkRecord(
        run="run-1",
        round=2,
        attempt=1,
        outcome="completed",
        received_at=AT - 60_000,
        update_bytes=1_000,
        times=OWN,
        fleet=USUAL,
        fleet_devices=20,
        counted="REFUSED",
        counted_reason="a value is not finite",
    )
    declined = WorkRecord(
        run="run-1", round=1, attempt=1, outcome="declined", received_at=AT - 90_000, reason="battery at 10 %"
    )
    asked = Assignment(
        run="run-1",
        round=3,
        attempt=1,
        round_state="OPEN",
        state="ACCEPTED",
        announced_at=AT - 9_000,
        reason="",
    )
    return DeviceReport(
        device="press-1",
        heartbeat=device_record(PRESS, AT - 300_000),
        assignments=[asked],
        rounds=[replied, declined],
        speed=compare_speed([replied, declined]),
        registration=DeviceRegistration(
            registered=True,
            thing_type="press",
            thing_attributes={"hall": "3"},
            thing_groups=["presses"],
            certificates=[DeviceCertificate(id="c" * 64, status="ACTIVE", expires_at=AT + 86_400_000)],
        ),
        errors=[],
    )


def forgotten() -> object:
    return ForgottenDevice(device="lathe-2", last_seen_at=AT - 900_000, forgotten=True, dry_run=False)


RESULTS = {"devices-list": listed, "devices-show": shown, "devices-forget": forgotten}


@pytest.mark.parametrize("name", RESULTS)
def test_the_json_of_a_command_is_that_of_its_golden_file(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show_result(RESULTS[name](), "json", print)
    assert capsys.readouterr().out == golden_text(name)


@pytest.mark.parametrize("name", RESULTS)
def test_every_field_is_documented(name: str, project: Path) -> None:
    page = (project / "docs" / "json.md").read_text(encoding="utf-8")
    found = fields(json.loads(golden_text(name)))
    assert [field for field in sorted(found) if f"`{field}`" not in page] == []

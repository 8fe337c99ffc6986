"""The cold start of the averager: import time, first invocation, memory, and the size of its zip.

The code of the functions is packed by package.py and unpacked into a temporary folder. A new process imports
the averager from there and calls its handler with an empty batch, as Lambda does: AWS clients are created,
but no request is sent. Numpy, boto3 and other libraries come from the environment of this machine, since the
zip has them for Lambda's Python; sizes are those of the zip. All times are medians.
"""

import statistics
import sys
import tempfile
import zipfile
from pathlib import Path

import package
from benchmarks.measuring.processes import figures_of

_FIRST_CALL = """
import json, os, sys, time
began = time.perf_counter()
from cloud_functions import averager
imported = time.perf_counter()

class Context:
    aws_request_id = "request-1"

    def get_remaining_time_in_millis(self):
        return 300_000

averager.handler({"Records": []}, Context())
called = time.perf_counter()
averager.handler({"Records": []}, Context())
again = time.perf_counter()
import cloud_functions
assert cloud_functions.__file__.startswith(sys.argv[1]), cloud_functions.__file__
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"import_s": imported - began, "first_call_s": called - imported,
                  "second_call_s": again - called, "peak_mb": peak * 1024 / 1e6}))
"""
_ENVIRONMENT = {
    "FLEET": "bench",
    "BUCKET": "bench",
    "ROUNDS_TABLE": "rounds",
    "DEVICES_TABLE": "devices",
    "SCHEDULE_GROUP": "group",
    "SCHEDULER_ROLE_ARN": "arn:aws:iam::000000000000:role/bench",
    "ALARMS_QUEUE_ARN": "arn:aws:sqs:us-east-1:000000000000:alarms",
    "ALARMS_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/000000000000/alarms",
    "REPLIES_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/000000000000/replies",
    "JOBS_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/000000000000/jobs",
    "GROUP_SIZE": "64",
    "GROUPED_MEGABYTES": "2048",
    "SHARDED_MEGABYTES": "256",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
}


def first_call(folder: Path) -> dict[str, float]:
    """Import and call the averager of the unpacked zip in a new process."""
    command = [sys.executable, "-P", "-c", _FIRST_CALL, str(folder)]
    return figures_of(command, {**_ENVIRONMENT, "PYTHONPATH": str(folder)}, folder)


def measure(times: int) -> dict[str, float]:
    """Build and measure.

    Args:
        times: how many processes are started.
    """
    with tempfile.TemporaryDirectory(prefix="fedgrass-cold-start-") as temporary:
        folder, archive = Path(temporary) / "function", Path(temporary) / "functions.zip"
        package.build_functions(archive)
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
        package.build_functions(archive, "x86_64")
        with zipfile.ZipFile(archive) as packed:
            unpacked = sum(entry.file_size for entry in packed.infolist())
        calls = [first_call(folder) for _ in range(times)]
        figures = {name: round(statistics.median(call[name] for call in calls), 3) for name in calls[0]}
        return figures | {
            "zip_mb": round(archive.stat().st_size / 1e6, 1),
            "unpacked_mb": round(unpacked / 1e6, 1),
        }

# ruff: noqa: N803 - the arguments have boto3's names
"""AWS Batch and S3 in memory, as far as a grid uses them: jobs run in an executor of the test."""

import io
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from botocore.exceptions import ClientError

from fedgrass.simulation.grids.executors.batch_jobs import S3Folder
from fedgrass.simulation.grids.executors.cell_executor import CellExecutor


def refusal(code: str, operation: str, status: int = 400) -> ClientError:
    metadata = {"HTTPStatusCode": status, "RequestId": "1"}
    answer: Any = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": metadata}
    return ClientError(answer, operation)


class MemoryS3:
    """Objects of one bucket, listed in pages of three."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put_object(self, *, Bucket: str, Key: str, Body: bytes) -> None:
        del Bucket
        self.objects[Key] = Body

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        del Bucket
        if Key not in self.objects:
            error = refusal("NoSuchKey", "GetObject", 404)
            raise error
        return {"Body": io.BytesIO(self.objects[Key])}

    def get_paginator(self, operation: str) -> "MemoryS3":
        assert operation == "list_objects_v2"
        return self

    def paginate(self, *, Bucket: str, Prefix: str) -> Iterator[dict[str, Any]]:
        del Bucket
        keys = sorted(key for key in self.objects if key.startswith(Prefix))
        for start in range(0, max(1, len(keys)), 3):
            page = [{"Key": key} for key in keys[start : start + 3]]
            yield {"Contents": page} if page else {}


class MemoryBatch:
    """Jobs of AWS Batch. ``refusals`` are raised by the next requests, of the operation of that name."""

    def __init__(self, s3: MemoryS3, compute: CellExecutor) -> None:
        self._s3, self._compute = s3, compute
        self._lock = threading.Lock()
        self.jobs: dict[str, dict[str, Any]] = {}
        self.submitted: list[dict[str, Any]] = []
        self.terminated: list[str] = []
        self.refusals: dict[str, list[ClientError]] = {}
        self.queues = [{"jobQueueName": "grids", "state": "ENABLED", "status": "VALID"}]
        self.definitions = [{"jobDefinitionName": "fedgrass", "revision": 3, "status": "ACTIVE"}]

    def _refuse(self, operation: str) -> None:
        if waiting := self.refusals.get(operation):
            raise waiting.pop(0)

    def describe_job_queues(self, *, jobQueues: list[str]) -> dict[str, Any]:
        self._refuse("describe_job_queues")
        return {"jobQueues": [each for each in self.queues if each["jobQueueName"] in jobQueues]}

    def describe_job_definitions(self, *, jobDefinitionName: str) -> dict[str, Any]:
        return {
            "jobDefinitions": [e for e in self.definitions if e["jobDefinitionName"] == jobDefinitionName]
        }

    def submit_job(self, **request: Any) -> dict[str, str]:
        self._refuse("submit_job")
        identity = str(uuid.uuid4())
        size = request.get("arrayProperties", {}).get("size")
        assert size is None or 2 <= size <= 10_000, "AWS accepts arrays of 2 to 10,000"
        folder = S3Folder(self._s3, request["containerOverrides"]["command"][-1])
        children = [{"status": "RUNNABLE", "index": index} for index in range(size or 1)]
        self.submitted.append(request)
        self.jobs[identity] = {"children": children, "size": size}
        for child in children:
            future = self._compute.submit(folder.read(f"works/{child['index']}.json"))
            future.add_done_callback(
                lambda done, child=child: self._end(folder, child, done)  # type: ignore[misc]
            )
        return {"jobId": identity}

    def _end(self, folder: S3Folder, child: dict[str, Any], done: Future[bytes]) -> None:
        error = None if done.cancelled() else done.exception()
        if done.cancelled() or error:
            child["container"] = {"exitCode": 137, "reason": "OutOfMemoryError: Container killed"}
            child["status"] = "FAILED"
        else:
            folder.write(f"results/{child['index']}.json", done.result())
            child["status"] = "SUCCEEDED"

    def describe_jobs(self, *, jobs: list[str]) -> dict[str, Any]:
        self._refuse("describe_jobs")
        return {"jobs": [self._described(identity) for identity in jobs if identity in self.jobs]}

    def _described(self, identity: str) -> dict[str, Any]:
        job = self.jobs[identity]
        counts = Counter(child["status"] for child in job["children"])
        if not job["size"]:
            return {"jobId": identity, **job["children"][0]}
        over = counts["SUCCEEDED"] + counts["FAILED"] == job["size"]
        status = ("FAILED" if counts["FAILED"] else "SUCCEEDED") if over else "PENDING"
        found = {"jobId": identity, "status": status, "arrayProperties": {"statusSummary": dict(counts)}}
        return {**found, "statusReason": "Array Child Job failed"} if status == "FAILED" else found

    def get_paginator(self, operation: str) -> "MemoryBatch":
        assert operation == "list_jobs"
        return self

    def paginate(self, *, arrayJobId: str, jobStatus: str) -> Iterator[dict[str, Any]]:
        for child in self.jobs[arrayJobId]["children"]:
            if child["status"] == jobStatus:
                found = {**child, "arrayProperties": {"index": child["index"]}}
                yield {"jobSummaryList": [found]}

    def terminate_job(self, *, jobId: str, reason: str) -> None:
        assert reason
        self._refuse("terminate_job")
        self.terminated.append(jobId)

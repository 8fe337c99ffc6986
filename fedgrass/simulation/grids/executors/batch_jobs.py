"""One array job of AWS Batch: its works and results in S3, its states, and its end.

Below the folder of the job, S3 has ``works/<index>.json`` and ``results/<index>.json``. Each child of the
array runs ``python -m fedgrass.simulation.grids.batch_worker s3://BUCKET/FOLDER``.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

MOST_CHILDREN = 10_000  # of an array job, by AWS's limit
_PARALLEL = 16  # requests to S3
_ENDED = frozenset({"SUCCEEDED", "FAILED"})
# Spot instances are taken back: AWS Batch starts such a child again by itself, and no other one.
_RETRIES = {
    "attempts": 5,
    "evaluateOnExit": [
        {"onStatusReason": "Host EC2*", "action": "RETRY"},
        {"onReason": "*", "action": "EXIT"},
    ],
}


class S3Folder:
    """A folder of S3.

    Args:
        s3: boto3's client.
        url: s3://BUCKET/FOLDER.
    """

    def __init__(self, s3: Any, url: str) -> None:
        self._s3 = s3
        parts = urlsplit(url)
        self._bucket, self._prefix = parts.netloc, parts.path.strip("/")

    @property
    def url(self) -> str:
        """The folder as s3://BUCKET/FOLDER."""
        return f"s3://{self._bucket}/{self._prefix}"

    def below(self, name: str) -> "S3Folder":
        """Return a folder in this one."""
        return S3Folder(self._s3, f"{self.url}/{name}")

    def read(self, name: str) -> bytes:
        """Return an object."""
        content: bytes = self._s3.get_object(Bucket=self._bucket, Key=self._key(name))["Body"].read()
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write an object."""
        self._s3.put_object(Bucket=self._bucket, Key=self._key(name), Body=content)

    def names(self, folder: str) -> Iterator[str]:
        """Yield the names of the objects in a folder of this one."""
        prefix = self._key(folder) + "/"
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
            for found in page.get("Contents", ()):
                yield found["Key"].removeprefix(prefix)

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name


class ArrayJob:
    """An array job; a single work is a plain job, because AWS has no array of one.

    Args:
        batch: boto3's client.
        folder: of this job.
        works: one per child.
    """

    def __init__(self, batch: Any, folder: S3Folder, works: Sequence[bytes]) -> None:
        self._batch, self._folder, self._works = batch, folder, works
        self.id = ""
        self._seen: set[str] = set()  # results that were read
        self._failed: set[int] = set()

    def submit(self, name: str, queue: str, definition: str) -> None:
        """Write the works to S3 and submit the job."""
        with ThreadPoolExecutor(_PARALLEL) as threads:
            writes = [
                threads.submit(self._folder.write, f"works/{index}.json", work)
                for index, work in enumerate(self._works)
            ]
            for write in writes:
                write.result()
        size = len(self._works)
        array = {"arrayProperties": {"size": size}} if size > 1 else {}
        command = ["python", "-m", "fedgrass.simulation.grids.batch_worker", self._folder.url]
        self.id = self._batch.submit_job(
            jobName=name,
            jobQueue=queue,
            jobDefinition=definition,
            containerOverrides={"command": command},
            retryStrategy=_RETRIES,
            **array,
        )["jobId"]

    def poll(self) -> tuple[dict[int, bytes], dict[int, str], bool]:
        """Return new results and new failures, by index, and whether the job has ended."""
        jobs = self._batch.describe_jobs(jobs=[self.id])["jobs"]
        job: dict[str, Any] = (
            jobs[0] if jobs else {"status": "FAILED", "statusReason": "AWS Batch has lost it"}
        )
        has_ended = job["status"] in _ENDED
        failed = job.get("arrayProperties", {}).get("statusSummary", {}).get("FAILED", 0)
        reasons = self._reasons(job) if failed > len(self._failed) or has_ended else {}
        # Listed last: a child writes its result before it ends.
        results = self._new_results()
        done = {int(name.removesuffix(".json")) for name in self._seen}
        if has_ended:
            missing = set(range(len(self._works))) - done
            usual = (
                f"its job {job['status'].lower()} without a result: {job.get('statusReason', 'no reason')}"
            )
            reasons = {index: reasons.get(index, usual) for index in missing}
        failures = {
            index: reason
            for index, reason in reasons.items()
            if index not in done and index not in self._failed
        }
        self._failed |= failures.keys()
        return results, failures, has_ended

    def _new_results(self) -> dict[int, bytes]:
        names = [name for name in self._folder.names("results") if name not in self._seen]
        with ThreadPoolExecutor(_PARALLEL) as threads:
            contents = list(threads.map(self._folder.read, (f"results/{name}" for name in names)))
        self._seen.update(names)
        return {
            int(name.removesuffix(".json")): content for name, content in zip(names, contents, strict=True)
        }

    def _reasons(self, job: dict[str, Any]) -> dict[int, str]:
        """Return why children failed, by index."""
        if len(self._works) == 1:
            return {0: _reason(job)} if job["status"] == "FAILED" else {}
        pages = self._batch.get_paginator("list_jobs").paginate(arrayJobId=self.id, jobStatus="FAILED")
        children = [child for page in pages for child in page["jobSummaryList"]]
        return {
            child["arrayProperties"]["index"]: _reason(child)
            for child in children
            if "arrayProperties" in child
        }

    def terminate(self) -> None:
        """End the job with all its children."""
        self._batch.terminate_job(jobId=self.id, reason="the grid was stopped")


def _reason(job: dict[str, Any]) -> str:
    container = job.get("container", {})
    parts = [job.get("statusReason", ""), container.get("reason", "")]
    code = container.get("exitCode")
    parts += [f"exit code {code}"] if code is not None else []
    return f"its job of AWS Batch failed: {'; '.join(filter(None, parts)) or 'no reason given'}"

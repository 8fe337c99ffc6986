"""A process of a swarm: reads its CrowdSpec from standard input, and prints a line of JSON per second.

It stops at the end of standard input, which its parent keeps open: it does not survive its parent. Its last
line is a CrowdReport.
"""

import asyncio
import contextlib
import signal
import sys

import msgspec

from fedgrass.federation.errors import FedgrassError
from fedgrass.swarm.devices.device_crowd import Crowd
from fedgrass.swarm.devices.signed_transfers import Transfers
from fedgrass.swarm.swarm_spec import (
    CrowdFailure,
    CrowdLine,
    CrowdReport,
    CrowdSample,
    CrowdSpec,
    decode_spec,
)

_SAMPLE_SECONDS = 1.0


def main() -> None:
    """Run the devices until the end of standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which closes standard input
    spec = decode_spec.decode(sys.stdin.buffer.readline())
    asyncio.run(_run(spec))


async def _run(spec: CrowdSpec) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop.set)
    async with Transfers(spec.address) as transfers:
        crowd = Crowd(spec, transfers)
        gathering = asyncio.ensure_future(crowd.gather())
        stopping = asyncio.ensure_future(stop.wait())
        while not stop.is_set():
            await asyncio.wait((stopping,), timeout=_SAMPLE_SECONDS)
            _print(CrowdSample(sample=crowd.sample()))
            if gathering.done() and not gathering.cancelled() and (error := gathering.exception()):
                reason = str(error) if isinstance(error, FedgrassError) else repr(error)
                _print(CrowdFailure(reason=reason))
                break
        gathering.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await gathering
        _print(CrowdReport(sample=crowd.sample(), rounds=tuple(crowd.replies())))
        await crowd.close()


def _print(line: CrowdLine) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()

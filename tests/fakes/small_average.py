"""Averages for tests: arrays in, a new model out, computed by the averager's code.

No round is opened and nothing is announced: the replies are constructed, and ``new_model`` reads the updates
from a bucket in memory as it does in a round.
"""

import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from cloud_functions.aggregation import aggregation_context, guarded_strategy, new_model
from cloud_functions.aggregation.aggregation_context import AggregationContext
from cloud_functions.rounds import publish
from cloud_functions.services import Services
from fedgrass.federation import object_keys
from fedgrass.federation.aggregation import STRATEGIES
from fedgrass.federation.encodings import Encoding
from fedgrass.federation.encodings import encode as encoded
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.runs import Progress, Run, RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.weights import checksum, decode, dtype_of, read_layout, sha256, unencoded, write
from fedgrass.federation.weights.array_roles import (
    auxiliary_layout,
    statistics_among,
    trained_metadata,
    update_layout,
)
from tests.fakes.memory_cloud import (
    MemoryAlarms,
    MemoryBucket,
    MemoryDevices,
    MemoryPublisher,
    MemoryRounds,
    MemoryThingGroups,
)
from tests.fakes.memory_log import MemoryLog

Arrays = Mapping[str, NDArray[Any]]
RUN = "run-1"
# The strategies that average arrays of the model's shapes; the others read whole updates.
AVERAGING = tuple(name for name, found in STRATEGIES.items() if found.reads != "whole")


class SmallAverage:
    """A run that only averages; the next updates start from ``model``.

    Args:
        model: the initial model; arrays of uint16 are the bits of BF16.
        encoding: of the updates.
        bucket: contains all files.
        settings: settings of the run, such as ``aggregation``.
    """

    def __init__(
        self,
        model: Arrays,
        *,
        encoding: Encoding | None = None,
        bucket: MemoryBucket | None = None,
        **settings: object,
    ) -> None:
        self.bucket = bucket or MemoryBucket()
        self.number = 0
        self.encoding = encoding or Encoding()
        self.settings = parse_settings({"task": "digits", **_settings_of(self.encoding), **settings})
        self.bucket.write(object_keys.model(RUN, 0), file_of(model))
        self.services = _services(self.bucket)

    @property
    def model(self) -> dict[str, NDArray[Any]]:
        return self.model_of(self.number)

    def model_of(self, number: int) -> dict[str, NDArray[Any]]:
        """Return the model that round ``number`` made."""
        return decode(self.bucket.objects[object_keys.model(RUN, number)])

    def state(self, name: str) -> dict[str, NDArray[Any]]:
        """Return the server state of the latest model."""
        return decode(self.bucket.objects[object_keys.state(RUN, self.number, name)])

    def upload(
        self,
        updates: Sequence[Arrays | bytes],
        trained: Collection[str] | None = None,
        starts: Sequence[int] = (),
    ) -> None:
        """Put the updates of the next round into the bucket.

        Args:
            updates: full weights after training, or files.
            trained: the arrays that gradients move, as all updates declare; None for no declaration.
            starts: numbers of the models from which devices started; the newest model by default.
        """
        for place, update in enumerate(updates):
            number = starts[place] if starts else self.number
            data = (
                update
                if isinstance(update, bytes)
                else self.encode(update, seed=place, trained=trained, number=number)
            )
            self.bucket.write(object_keys.update(_device(place), RUN, number + 1, 1), data)

    def encode(
        self,
        update: Arrays,
        seed: int = 0,
        trained: Collection[str] | None = None,
        number: int | None = None,
    ) -> bytes:
        """Return the file of an update given as full weights; auxiliary arrays are zero unless given.

        ``number`` is that of the model from which the device started; None for the newest one.
        """
        file, carried = self.bucket.objects[object_keys.model(RUN, self.number)], self._carried()
        begun = self.model if number is None else self.model_of(number)
        start = {**begun, **carried} if self.encoding.difference else None
        target = io.BytesIO()
        layout = update_layout(read_layout(file, len(file)), guarded_strategy.load(self.settings).carried)
        rng = np.random.default_rng(seed)
        statistics = statistics_among(update, trained)
        arrays = encoded(
            {**carried, **update}, layout, self.encoding, rng, start=start, statistics=statistics
        )
        write(arrays, target, trained_metadata(trained))
        return target.getvalue()

    def _carried(self) -> dict[str, NDArray[Any]]:
        file = self.bucket.objects[object_keys.model(RUN, self.number)]
        layout = auxiliary_layout(read_layout(file, len(file)), guarded_strategy.load(self.settings).carried)
        return {name: np.zeros(array.shape, np.float32) for name, array in layout.arrays.items()}

    def unchecked(self, update: Arrays, carried: Arrays | None = None) -> bytes:
        """Return the file of an update as a device without checks would write it."""
        return file_of(update, behind=self._carried() if carried is None else carried)

    def make(
        self,
        count: int,
        examples: Sequence[int] | None = None,
        metrics: Sequence[dict[str, float]] | None = None,
        evaluations: int = 0,
        starts: Sequence[int] = (),
    ) -> dict[str, NDArray[Any]]:
        """Average the updates that ``upload`` wrote; return the new model."""
        replies = self.replies(count, examples, metrics, starts)
        context = self.begin(count, evaluations)
        new_model.make(context, replies, [])
        return self.keep(context)

    def begin(self, count: int, evaluations: int = 0) -> AggregationContext:
        """Begin the aggregation of a round in which ``count`` devices were asked."""
        leased = self._round(self.number + 1, count)
        return aggregation_context.begin(self.services, self._run(evaluations), leased)

    def keep(self, context: AggregationContext) -> dict[str, NDArray[Any]]:
        """Publish the drafts of an aggregation; return the new model."""
        assert not publish.keep_model(self.services, context.run, context.round)
        self.number = context.round.number
        return self.model

    def replies(
        self,
        count: int,
        examples: Sequence[int] | None = None,
        metrics: Sequence[dict[str, float]] | None = None,
        starts: Sequence[int] = (),
    ) -> list[Participant]:
        """Return the replies of the devices whose updates ``upload`` wrote."""
        replies = []
        for place in range(count):
            number = (starts[place] if starts else self.number) + 1
            data = self.bucket.objects[object_keys.update(_device(place), RUN, number, 1)]
            replies.append(
                Participant(
                    device=_device(place),
                    state=Participation.REPLIED,
                    announced_at=0,
                    bytes=len(data),
                    checksum=checksum(data),
                    examples=examples[place] if examples else 1,
                    metrics=metrics[place] if metrics else {},
                    from_round=number if starts else 0,
                    from_attempt=1 if starts else 0,
                    base=starts[place] if starts else None,
                )
            )
        return replies

    def round(
        self,
        updates: Sequence[Arrays | bytes],
        trained: Collection[str] | None = None,
        starts: Sequence[int] = (),
        **replies: Any,
    ) -> dict[str, NDArray[Any]]:
        """Upload the updates and average them."""
        self.upload(updates, trained, starts)
        return self.make(len(updates), starts=starts, **replies)

    def _run(self, evaluations: int) -> Run:
        return Run(
            name=RUN,
            state=RunState.RUNNING,
            settings=self.settings,
            started_at=0,
            initial_sha256="",
            initial_bytes=0,
            progress=Progress(evaluations=evaluations),
        )

    def _round(self, number: int, asked: int) -> Round:
        base = self.bucket.objects[object_keys.model(RUN, self.number)]
        return Round(
            run=RUN,
            number=number,
            attempt=1,
            state=State.AGGREGATING,
            asked=asked,
            needed=asked,
            minimum=1,
            opened_at=0,
            deadline_at=60_000,
            base=self.number,
            base_sha256=sha256(base),
            base_bytes=len(base),
            fence=1,
            lease_until=60_000,
        )


def average(
    updates: Sequence[Arrays], model: Arrays | None = None, **options: Any
) -> dict[str, NDArray[Any]]:
    """Return the average of one round; devices started from ``model``, by default zeros."""
    replies = {name: options.pop(name) for name in ("examples", "metrics") if name in options}
    start = model or {name: np.zeros_like(array) for name, array in updates[0].items()}
    return SmallAverage(start, **options).round(updates, **replies)


def file_of(arrays: Arrays, behind: Arrays | None = None) -> bytes:
    """Return a weights file with the widest types first; arrays of uint16 are the bits of BF16."""
    by_width = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    by_width += (behind or {}).items()
    target = io.BytesIO()
    types = {name: "BF16" if array.dtype == np.uint16 else dtype_of(name, array) for name, array in by_width}
    write({name: unencoded(array, types[name]) for name, array in by_width}, target)
    return target.getvalue()


def _settings_of(encoding: Encoding) -> dict[str, object]:
    return {
        "upload_encoding": encoding.kind,
        "upload_difference": encoding.difference,
        "top_k_fraction": encoding.fraction,
    }


def _device(place: int) -> str:
    return f"thing-{place:04}"


def _services(bucket: MemoryBucket) -> Services:
    return Services(
        fleet="garden",
        rounds=MemoryRounds(),
        devices=cast(Any, MemoryDevices()),
        thing_groups=MemoryThingGroups(),
        bucket=bucket,
        publisher=MemoryPublisher(),
        alarms=MemoryAlarms(),
        now=lambda: 0,
        log=MemoryLog(),
        lease_seconds=60,
    )

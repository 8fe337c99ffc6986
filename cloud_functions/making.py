"""The making of a round's model: what its steps have in common, and how the updates are opened."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from cloud_functions import strategies
from cloud_functions.cloud import Cloud
from cloud_functions.combining import BadUpdates, Combiner
from cloud_functions.model_files import ModelReader, readable
from cloud_functions.strategies import Guarded
from cloud_functions.update_files import Form, UpdateFile
from fedgrass.federation import object_keys
from fedgrass.federation.carried import carried_layout, layout_with
from fedgrass.federation.errors import AggregationFailed, LostRace, SettingsError, UpdateRefused
from fedgrass.federation.rounds import Participant, Round, State
from fedgrass.federation.runs import Run
from fedgrass.federation.slices import Slice
from fedgrass.federation.trained_arrays import count_votes
from fedgrass.federation.weights import Layout, in_file_order

_HEADERS_OF_A_LANE = 2  # at once: they are small
_LARGEST_HEADERS = 16 * 1024**2  # bytes of all that are read at once: to parse them takes some 14 times that
_LONGEST = 900.0  # seconds: a Lambda function has no more


class BadReplies(Exception):  # it is no error of anybody's who calls: the others are combined then
    """Updates that must not enter the average: their devices, and what is wrong with each."""

    def __init__(self, refused: dict[str, str]) -> None:
        super().__init__(f"the updates of {', '.join(refused)} are bad")
        self.refused = refused


@dataclass(frozen=True)
class Making:
    """What the steps of one making have in common."""

    cloud: Cloud
    run: Run
    round: Round
    layout: Layout  # of the model
    form: Form  # of the updates
    guarded: Guarded

    @property
    def arrays(self) -> list[str]:
        """The model's arrays, in the order of its file."""
        return list(in_file_order(self.layout))


def begin(cloud: Cloud, run: Run, of: Round) -> Making:
    """Begin to make the model of a round.

    Raises:
        AggregationFailed: the base model cannot be read, or the strategy is one's own and was deployed away
            since the run was started.
    """
    settings, base = run.settings, object_keys.model(run.name, of.base)
    with readable(base, f"the model {base}, from which round {of.number} starts,"):
        layout = cloud.bucket.read_layout(base)
    try:
        strategy = strategies.load(settings)
    except SettingsError as error:
        raise AggregationFailed(str(error)) from error
    guarded = Guarded(settings.aggregation, strategy, settings.aggregation_seconds)
    form = Form(layout_with(layout, strategy.carried), settings.upload)
    return Making(cloud, run, of, layout, form, guarded)


def combiner(making: Making, updates: Sequence[UpdateFile], shard: Slice | None = None) -> Combiner:
    """Return what combines some updates, of a shard of the model or of all of it."""
    key = object_keys.model(making.run.name, making.round.base)
    return Combiner(
        updates,
        ModelReader(making.cloud.bucket, key, making.layout),
        making.layout,
        carried=carried_layout(making.layout, making.guarded.strategy.carried),
        differences=making.form.encoding.difference,
        check=_clock(making.cloud, making.round),
        part=shard,
        votes=count_votes(making.arrays, [update.declaration for update in updates]),
    )


def open_updates(
    making: Making, replies: Sequence[Participant], versions: Mapping[str, str] = MappingProxyType({})
) -> list[UpdateFile]:
    """Open the updates of some replies, several at a time.

    Args:
        making: what they are read for.
        replies: whose they are.
        versions: that have to be read, by device; of all others those that are there now.

    Raises:
        BadUpdates: the headers of some are not what they must be.
    """
    refused: dict[int, str] = {}
    of, bucket = making.round, making.cloud.bucket

    def opened(place: int) -> UpdateFile | None:
        reply = replies[place]
        key = object_keys.update(reply.device, of.run, of.number, of.attempt)
        try:
            version = versions.get(reply.device, "")
            return UpdateFile(bucket, key, reply.bytes, reply.checksum, making.form, version)
        except UpdateRefused as error:
            refused[place] = str(error)
            return None

    at_once = min(_HEADERS_OF_A_LANE * bucket.lanes, _LARGEST_HEADERS // making.form.largest_header)
    with ThreadPoolExecutor(max(1, min(at_once, len(replies)))) as pool:
        updates = list(pool.map(opened, range(len(replies)), timeout=_LONGEST))
    if refused:
        raise BadUpdates(refused)
    return [update for update in updates if update]


@contextmanager
def named(replies: Sequence[Participant]) -> Iterator[None]:
    """Name the devices of updates that turn out to be bad, which the arithmetic knows by their places."""
    try:
        yield
    except BadUpdates as bad:
        raise BadReplies({replies[place].device: text for place, text in bad.refused.items()}) from bad


def _clock(cloud: Cloud, of: Round) -> Callable[[], None]:
    """Return what stops an averager whose lease is over: somebody else averages by then."""

    def check() -> None:
        if of.state is State.AGGREGATING and cloud.now() >= of.lease_until:
            raise LostRace(of.run)

    return check

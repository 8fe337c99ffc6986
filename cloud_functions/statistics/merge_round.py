"""Merges the answers of a round of statistics, a few at a time, and drafts what the round leaves.

The last round of a run leaves the merged statistics; a first one, in which edges of histograms are agreed,
leaves the query of the second. An answer that contradicts itself or the query is refused by its device's
name, and the round continues without it.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import xxhash

from cloud_functions.aggregation.new_model import FinishedModel
from cloud_functions.services import Services
from cloud_functions.statistics.query_file import encode_query, read_query
from cloud_functions.statistics.statistics_files import draft_key
from fedgrass.federation import object_keys
from fedgrass.federation.errors import AggregationFailed, UpdateRefused
from fedgrass.federation.ports import LONGEST_WAIT
from fedgrass.federation.rounds import Participant, Participation, Round
from fedgrass.federation.runs import Run
from fedgrass.federation.statistics import quantile_sketches
from fedgrass.federation.statistics.answer_merger import AnswerMerger
from fedgrass.federation.statistics.statistics_answer import (
    LARGEST_ANSWER,
    decode_answer,
    from_text,
)
from fedgrass.federation.statistics.statistics_query import StatisticsQuery
from fedgrass.federation.statistics.statistics_result import encode_result
from fedgrass.federation.weights import sha256

_AT_ONCE_BYTES = 64 * 1024**2  # of answers that are read ahead


class Merged(NamedTuple):
    """The merged answers of a round, and those that were refused."""

    merger: AnswerMerger
    query: StatisticsQuery
    refused: dict[str, str]  # reasons by device


def merge_answers(services: Services, round_: Round) -> Merged:
    """Merge the answers of a round's replies, by device name; only a few of them are held at a time.

    Raises:
        AggregationFailed: the query is missing, or sketches cannot be merged in this process.
    """
    query = read_query(services, round_.run, round_.base, round_.base_sha256)
    if (query.agree or query.asks("quantiles")) and not quantile_sketches.available():
        message = "the package datasketches is missing in the functions: deploy the cloud again"
        raise AggregationFailed(message)
    merger, refused = AnswerMerger(query), dict[str, str]()
    replies = (p for p in services.rounds.participants(round_) if p.state is Participation.REPLIED)
    for reply, found in _read(services, round_, replies):
        if isinstance(found, UpdateRefused):
            refused[reply.device] = str(found)
            continue
        try:
            merger.add(decode_answer(found))
        except UpdateRefused as error:
            refused[reply.device] = str(error)
    return Merged(merger, query, refused)


def _read(
    services: Services, round_: Round, replies: Iterable[Participant]
) -> Iterator[tuple[Participant, bytes | UpdateRefused]]:
    """Yield each reply with its answer, or with why that is refused; few answers are held at a time."""

    def answer_of(reply: Participant) -> bytes | UpdateRefused:
        try:
            return _answer_of(services, round_, reply)
        except UpdateRefused as error:
            return error

    with ThreadPoolExecutor(services.bucket.lanes) as pool:
        for group in _groups(replies, services.bucket.lanes):
            yield from zip(group, pool.map(answer_of, group, timeout=LONGEST_WAIT), strict=True)


def _groups(replies: Iterable[Participant], most: int) -> Iterator[list[Participant]]:
    """Yield the replies in groups of at most ``most``, whose answers are small enough to be held together."""
    group: list[Participant] = []
    size = 0
    for reply in replies:
        if group and (len(group) == most or size + reply.bytes > _AT_ONCE_BYTES):
            yield group
            group, size = [], 0
        group.append(reply)
        size += min(reply.bytes, LARGEST_ANSWER)
    if group:
        yield group


def _answer_of(services: Services, round_: Round, reply: Participant) -> bytes:
    """Return the answer of a reply, from its completion or from the object. Raises UpdateRefused."""
    if not reply.bytes:
        data = from_text(reply.answer)
    else:
        key = object_keys.update(reply.device, round_.run, round_.number, round_.attempt)
        if reply.bytes > LARGEST_ANSWER:
            message = f"the answer has {reply.bytes:,} bytes; {LARGEST_ANSWER:,} are allowed"
            raise UpdateRefused(message)
        try:
            data = services.bucket.read(key, reply.bytes)  # a larger object is refused
        except KeyError as error:
            message = f"there is no object {key} in the bucket"
            raise UpdateRefused(message) from error
    if (actual := xxhash.xxh3_128_hexdigest(data)) != reply.checksum:
        message = f"the checksum of the answer is {actual}; that in the completion is {reply.checksum}"
        raise UpdateRefused(message)
    return data


def draft(services: Services, run: Run, leased: Round, merged: Merged) -> FinishedModel:
    """Write the draft of what the round leaves, and return its checksum and size."""
    if merged.query.agree:
        data = encode_query(merged.merger.next_query())
    else:
        data = encode_result(merged.merger.result(leased.run, run.settings.task, leased.number))
    services.bucket.write(draft_key(run, leased), data)
    return FinishedModel(sha256(data), len(data), "", 0, {})


def merged_again(services: Services, run: Run, closed_round: Round) -> bool:
    """Write the lost draft of a closed round again; return whether it has the same bytes as before.

    Merged sketches choose their values at random, so with quantiles it seldom has.
    """
    found = draft(services, run, closed_round, merge_answers(services, closed_round))
    return found.sha256 == closed_round.model_sha256

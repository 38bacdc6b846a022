"""The same speech twice, and the same example twice, anywhere in a dataset.

This is the one filter that looks at finished shards: what is a duplicate depends on all rows, and
units know nothing of each other. Exact copies are found by the digest of their samples, near ones
(another codec, rate or level) by their fingerprints: see `pipeline.audio.fingerprint`. On 380 real
recordings, copies in other formats differ in up to 28 of 248 bits, other takes in 56 or more.

An augmented utterance is judged by its clean sound: it is no copy of its own origin, whose row may be
kept beside it, but of whatever its origin is a copy of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash
from pydantic import Field, PositiveInt

from pipeline.audio import FINGERPRINT_BITS
from pipeline.text import jaccard, normalise, words
from schemas.recipe import Options
from schemas.sample import Rejection

Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]

_BYTES = FINGERPRINT_BITS // 8
_BAND = 4  # bytes of a fingerprint that are compared as one
_SMALL_GROUP = 64  # so many utterances of equal transcript, the first, are compared each with each
_REACH = 8  # neighbours that the others are compared with
_AT_ONCE = 4096  # values that are objects at the same time

REASONS = frozenset({"duplicate_audio", "near_duplicate_audio", "duplicate_sample", "repeated_response"})
COLUMNS = ("id", "task", "utterance", "copy", "transcript", "digest", "fingerprint")


class Duplicates(Options):
    """Keeps the first of equal utterances, and the first of nearly equal examples of one."""

    is_plugin: ClassVar[bool] = True

    near: bool = True
    """Whether near copies count, beside exact ones."""
    bits: Annotated[int, Field(ge=0, le=FINGERPRINT_BITS // 4)] = 32
    """How many of 248 bits near copies may differ in."""
    texts: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of common words from which on two examples of one utterance and task are one."""
    same_response: PositiveInt | None = None
    """At most this many rows of a task may have equal responses; for free answers by an LLM."""

    def find(self, rows: pa.Table, messages: Callable[[int], list[str]]) -> dict[int, Rejection]:
        """The rows to set aside, by their number.

        Args:
            rows: `COLUMNS` of all kept rows, in the order in which the first of equals is kept. Augmented ones have
                the id, digest and fingerprint of the clean utterance; `copy` says that its row is there, too.
            messages: The contents of a row's messages.
        """
        utterance, first_row = _numbered(_keys(rows["utterance"]))
        copies = self._copies(rows, first_row)
        found = {int(row): copies[int(utterance[row])] for row in np.flatnonzero(np.isin(utterance, list(copies)))}
        found |= self._examples(rows, utterance, messages, found)
        if self.same_response is not None:
            found |= self._responses(rows, messages, found)
        return found

    def _copies(self, rows: pa.Table, first_row: Ints) -> dict[int, Rejection]:
        """Utterances that are copies of earlier ones, by their number."""
        digest, first = _numbered(_keys(rows["digest"])[first_row])
        copies = {
            int(place): Rejection(
                "duplicate_audio", f"the same samples as {rows['utterance'][int(first_row[first[digest[place]]])]}"
            )
            for place in np.flatnonzero(first[digest] != np.arange(len(digest)))
        }
        return copies | self._near(rows, first_row, copies) if self.near else copies

    def _near(self, rows: pa.Table, first_row: Ints, exact: dict[int, Rejection]) -> dict[int, Rejection]:
        whole, prints = _prints(rows["fingerprint"])
        places = np.flatnonzero(whole[first_row] & ~np.isin(np.arange(len(first_row)), list(exact)))
        if len(places) < 2:
            return {}
        chosen = first_row[places]
        prints = prints[chosen]
        spoken = _keys(rows["transcript"], normalise)[chosen]
        near: dict[int, dict[int, int]] = defaultdict(dict)
        for a, b, distance in _pairs(prints, spoken, self.bits):
            near[max(a, b)][min(a, b)] = distance
        copies: dict[int, Rejection] = {}
        for later in sorted(near):
            # Only what is kept can make others copies.
            origin = next((e for e in sorted(near[later]) if int(places[e]) not in copies), None)
            if origin is not None:
                name = rows["utterance"][int(chosen[origin])]
                text = f"{near[later][origin]} of {FINGERPRINT_BITS} bits from {name}"
                copies[int(places[later])] = Rejection("near_duplicate_audio", text)
        return copies

    def _examples(
        self,
        rows: pa.Table,
        utterance: Ints,
        messages: Callable[[int], list[str]],
        found: dict[int, Rejection],
    ) -> dict[int, Rejection]:
        task, _ = _numbered(_keys(rows["task"]))
        kind = 2 * task + rows["copy"].to_numpy()
        twins: dict[int, Rejection] = {}
        for group in _groups(utterance * (int(kind.max(initial=0)) + 1) + kind):
            kept: list[tuple[int, set[str]]] = []
            for row in sorted(int(r) for r in group if int(r) not in found):
                said = set(words(" ".join(messages(row))))
                twin = next((k for k, other in kept if jaccard(said, other) >= self.texts), None)
                if twin is None:
                    kept.append((row, said))
                else:
                    twins[row] = Rejection("duplicate_sample", f"like {rows['id'][twin]}")
        return twins

    def _responses(
        self, rows: pa.Table, messages: Callable[[int], list[str]], found: dict[int, Rejection]
    ) -> dict[int, Rejection]:
        assert self.same_response is not None
        seen: dict[int, int] = defaultdict(int)
        over: dict[int, Rejection] = {}
        for row, (task, copy) in enumerate(zip(_values(rows["task"]), _values(rows["copy"]), strict=True)):
            if row in found:
                continue
            response = messages(row)[-1]
            key = _key(f"{task}\0{copy}\0{normalise(response)}")
            seen[key] += 1
            if seen[key] > self.same_response:
                text = f"{seen[key]} rows of {task} answer {response[:80]!r}, {self.same_response} may"
                over[row] = Rejection("repeated_response", text)
        return over


def _key(text: str) -> int:
    """64 bits that stand for a text: a dataset's rows are many, and two of them equal by chance are not."""
    return xxhash.xxh3_64_intdigest(text.encode())


def _values(column: pa.ChunkedArray) -> Iterator[Any]:
    """The values of a column, of which a piece at a time is made into objects."""
    for chunk in column.chunks:
        for begin in range(0, len(chunk), _AT_ONCE):
            yield from chunk.slice(begin, _AT_ONCE).to_pylist()


def _keys(column: pa.ChunkedArray, change: Callable[[str], str] = str) -> Keys:
    return np.fromiter((_key(change(text or "")) for text in _values(column)), np.uint64, len(column))


def _prints(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.bool_], Bytes]:
    """Which rows have a whole fingerprint, and the bytes of each."""
    whole, prints = np.zeros(len(column), np.bool_), np.zeros((len(column), _BYTES), np.uint8)
    for row, content in enumerate(_values(column)):
        if content and len(content) == _BYTES:
            whole[row] = True
            prints[row] = np.frombuffer(content, np.uint8)
    return whole, prints


def _numbered(keys: Keys) -> tuple[Ints, Ints]:
    """Each value as the number of its first appearance, and the rows of these."""
    _, first, codes = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.arange(len(order))
    return numbers[codes], first[order]


def _pairs(prints: Bytes, spoken: Keys, bits: int) -> Iterator[tuple[int, int, int]]:
    """Near pairs with their distance, among those equal in one of some bands, or alike in what is said."""
    for begin in range(0, _BYTES - _BAND + 1, _BAND):
        band = np.ascontiguousarray(prints[:, begin : begin + _BAND]).view(np.uint32).ravel()
        yield from _near_pairs(band, prints, bits)
    yield from _near_pairs(spoken, prints, bits)


def _near_pairs(keys: npt.NDArray[Any], prints: Bytes, bits: int) -> Iterator[tuple[int, int, int]]:
    for group in _groups(keys):
        for i, a in enumerate(group[:-1]):
            # Rows that come later in the order take no comparison away: what was said of earlier ones stays.
            others = group[i + 1 : max(_SMALL_GROUP, i + _REACH)]
            distances = np.bitwise_count(prints[a] ^ prints[others]).sum(axis=1)
            for place in np.flatnonzero(distances <= bits):
                yield int(a), int(others[place]), int(distances[place])


def _groups(keys: npt.NDArray[Any]) -> Iterator[Ints]:
    """Places with equal keys, where there are two or more."""
    order = np.argsort(keys, kind="stable")
    edges = np.concatenate([[0], np.flatnonzero(np.diff(keys[order])) + 1, [len(keys)]])
    for place in np.flatnonzero(np.diff(edges) > 1):
        yield order[edges[place] : edges[place + 1]]

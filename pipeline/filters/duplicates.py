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
from pydantic import Field, PositiveInt

from pipeline.audio import FINGERPRINT_BITS
from pipeline.text import jaccard, normalise, words
from schemas.recipe import Options
from schemas.sample import Rejection

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_BYTES = FINGERPRINT_BITS // 8
_BAND = 4  # bytes of a fingerprint that are compared as one
_SMALL_GROUP = 64  # utterances of equal transcript are compared each with each up to here
_REACH = 8  # neighbours that are compared in larger groups

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
        utterance, first_row = _numbered(rows["utterance"])
        names = rows["utterance"].take(pa.array(first_row))
        copies = self._copies(rows.take(pa.array(first_row)), names)
        found = {int(row): copies[int(utterance[row])] for row in np.flatnonzero(np.isin(utterance, list(copies)))}
        found |= self._examples(rows, utterance, messages, found)
        if self.same_response is not None:
            found |= self._responses(rows, messages, found)
        return found

    def _copies(self, utterances: pa.Table, names: pa.ChunkedArray) -> dict[int, Rejection]:
        """Utterances that are copies of earlier ones, by their number."""
        digest, first = _numbered(utterances["digest"])
        copies = {
            int(place): Rejection("duplicate_audio", f"the same samples as {names[int(first[digest[place]])]}")
            for place in np.flatnonzero(first[digest] != np.arange(len(digest)))
        }
        return copies | self._near(utterances, names, copies) if self.near else copies

    def _near(self, utterances: pa.Table, names: pa.ChunkedArray, exact: dict[int, Rejection]) -> dict[int, Rejection]:
        whole = [i for i, f in enumerate(utterances["fingerprint"].to_pylist()) if f and len(f) == _BYTES]
        places = np.array([i for i in whole if i not in exact], np.int64)
        if len(places) < 2:
            return {}
        chosen = utterances.take(pa.array(places))
        prints = np.frombuffer(b"".join(chosen["fingerprint"].to_pylist()), np.uint8).reshape(-1, _BYTES)
        spoken, _ = _numbered(pa.chunked_array([pa.array(map(normalise, chosen["transcript"].to_pylist()))]))
        earlier_of: dict[int, set[int]] = defaultdict(set)
        for a, b in _candidates(prints, spoken):
            earlier_of[max(a, b)].add(min(a, b))
        copies: dict[int, Rejection] = {}
        for later in sorted(earlier_of):
            for earlier in sorted(earlier_of[later]):
                if int(places[earlier]) in copies:
                    continue  # only what is kept can make others copies
                distance = int(np.bitwise_count(prints[earlier] ^ prints[later]).sum())
                if distance <= self.bits:
                    text = f"{distance} of {FINGERPRINT_BITS} bits from {names[int(places[earlier])]}"
                    copies[int(places[later])] = Rejection("near_duplicate_audio", text)
                    break
        return copies

    def _examples(
        self,
        rows: pa.Table,
        utterance: Ints,
        messages: Callable[[int], list[str]],
        found: dict[int, Rejection],
    ) -> dict[int, Rejection]:
        task, _ = _numbered(rows["task"])
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
        seen: dict[tuple[str, bool, str], int] = defaultdict(int)
        over: dict[int, Rejection] = {}
        for row, (task, copy) in enumerate(zip(*(rows[name].to_pylist() for name in ("task", "copy")), strict=True)):
            if row in found:
                continue
            response = messages(row)[-1]
            key = task, copy, normalise(response)
            seen[key] += 1
            if seen[key] > self.same_response:
                text = f"{seen[key]} rows of {task} answer {response[:80]!r}, {self.same_response} may"
                over[row] = Rejection("repeated_response", text)
        return over


def _numbered(column: pa.ChunkedArray) -> tuple[Ints, Ints]:
    """Each value as the number of its first appearance, and the rows of these."""
    codes = column.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    _, first = np.unique(codes, return_index=True)  # codes count up in the order of appearance
    return codes, first


def _candidates(prints: Bytes, spoken: Ints) -> Iterator[tuple[int, int]]:
    """Pairs that may be near: equal in one of some bands, or alike in what is said."""
    for begin in range(0, _BYTES - _BAND + 1, _BAND):
        band = np.ascontiguousarray(prints[:, begin : begin + _BAND]).view(np.uint32).ravel()
        yield from _pairs(band)
    yield from _pairs(spoken)


def _pairs(keys: npt.NDArray[Any]) -> Iterator[tuple[int, int]]:
    for group in _groups(keys):
        reach = len(group) if len(group) <= _SMALL_GROUP else _REACH
        for i, a in enumerate(group):
            for b in group[i + 1 : i + reach]:
                yield int(a), int(b)


def _groups(keys: npt.NDArray[Any]) -> Iterator[Ints]:
    """Places with equal keys, where there are two or more."""
    order = np.argsort(keys, kind="stable")
    edges = np.flatnonzero(np.diff(keys[order])) + 1
    for group in np.split(order, edges):
        if len(group) > 1:
            yield group

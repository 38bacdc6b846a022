"""Splits: who is heard in train and who in test, and which voice says what.

Nobody and no voice is in both. All is drawn by names, so that it does not depend on who else is there.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from pipeline import seeds
from pipeline.shards import SPLITS
from pipeline.text import base
from schemas.recipe import SplitSpec
from schemas.utterance import Utterance


def drawn_by(utterance: Utterance) -> str:
    """What a recording's split is drawn by: its speaker, or else the recording, or else itself."""
    return utterance.speaker or utterance.recording or utterance.id


class Splitter:
    """Gives each speaker one split.

    It does not depend on the order in which utterances come, unless a corpus puts a speaker into
    both: then the first of them decides, and the others are set aside.

    Args:
        spec: How speakers are divided.
        seed: The recipe's.
        forced: Splits of whole corpora.
        earlier: The split that an earlier run gave to what splits are drawn by; None where it did not see it.
    """

    def __init__(
        self,
        spec: SplitSpec,
        seed: int,
        forced: Mapping[str, str | None],
        earlier: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._spec, self._seed, self._forced, self._earlier = spec, seed, forced, earlier
        self._of: dict[str, str] = {}
        self._named = set(spec.test_speakers)
        self.seen_test_speakers: set[str] = set()

    def __call__(self, utterance: Utterance) -> tuple[str, str | None]:
        """The split, and what is wrong if the corpus puts one speaker into both."""
        key = drawn_by(utterance)
        known = self._known(key)
        if known is not None and utterance.split is None and not self._forced.get(utterance.corpus):
            return known, None
        wanted = self._wanted(utterance, key)
        known = self._of.setdefault(key, wanted)
        if known != wanted:
            problem = f"speaker_in_both_splits: {key} is in {known} already, {utterance.corpus} puts it in {wanted}"
            return known, problem
        return known, None

    def _known(self, key: str) -> str | None:
        known = self._of.get(key)
        if known is None and (known := self._earlier(key)) is not None:
            self._of[key] = known
        return known

    def _wanted(self, utterance: Utterance, key: str) -> str:
        forced = self._forced.get(utterance.corpus)
        if forced is not None:
            return forced
        if utterance.speaker in self._named:
            self.seen_test_speakers.add(utterance.speaker or "")
            return "test"
        if self._spec.use_corpus_splits and utterance.split is not None:
            return "train" if utterance.split.startswith("train") else "test"
        return "test" if seeds.share(self._seed, "split", key) < self._spec.test else "train"


class Speaking:
    """Gives text a split and a voice: a sentence is in one split, and so is a voice."""

    def __init__(self, voices: Any, spec: SplitSpec, seed: int) -> None:
        self._voices_of, self._spec, self._seed = voices, spec, seed
        self._known: dict[str, dict[str, list[Any]]] = {}
        self._split_of: dict[str, str] = {}
        self.mute: Counter[tuple[str, str]] = Counter()
        """Utterances that have no voice, by language and split."""

    def __call__(self, utterance: Utterance, forced: str | None) -> tuple[Utterance, str]:
        """The utterance with its voice, and the split; without a voice where none is left."""
        text, _, number = utterance.id.rpartition("#")
        if not number.isdecimal():  # a file may be called so
            text, number = utterance.id, "1"
        share = seeds.share(self._seed, "split", text)
        split = forced or ("test" if share < self._spec.test else "train")
        language = utterance.language or "en"
        voices = self._of(language)[split]
        if not voices:
            self.mute[language, split] += 1
            return utterance, split
        # The second voice of a sentence is another one than the first.
        order = self._order(voices, text)
        voice = order[(int(number) - 1) % len(order)]
        spoken = replace(
            utterance,
            voice=voice.name,
            speaker=f"tts/{voice.name}",
            labels={**voice.labels, **utterance.labels},
        )
        return spoken, split

    def voice(self, language: str, split: str, key: str) -> Any:
        """A voice for something that is said in a split; None where there is none."""
        voices = self._of(language)[split]
        return self._order(voices, key)[0] if voices else None

    def _order(self, voices: list[Any], text: str) -> list[Any]:
        """Voices by chance; those of an unseen synthesiser and the others by turns, however many there are of each."""
        drawn = sorted(voices, key=lambda v: seeds.derive(self._seed, "voice", text, v.name))
        pair = [[v for v in drawn if v.held_out], [v for v in drawn if not v.held_out]]
        if seeds.share(self._seed, "unseen", text) < 0.5:
            pair.reverse()
        return [v for turn in itertools.zip_longest(*pair) for v in turn if v is not None]

    def _of(self, language: str) -> dict[str, list[Any]]:
        """The voices of a language by split."""
        if language not in self._known:
            everywhere, here = (list(self._voices_of(name)) for name in (base(language), language))
            self._divide(everywhere)
            self._divide(here)
            # Where a split has none of the accent that is asked for, it takes what the language has.
            self._known[language] = {split: self._in(split, here) or self._in(split, everywhere) for split in SPLITS}
        return self._known[language]

    def _in(self, split: str, voices: Iterable[Any]) -> list[Any]:
        return [v for v in voices if self._split_of[v.name] == split]

    def _divide(self, voices: Iterable[Any]) -> None:
        """Gives voices a split by their name, once: `pt` and `pt-BR` share some, and so may two languages.

        An unseen synthesiser is for test alone; where there is no test it does not speak.
        """
        by_accent: dict[str, set[str]] = defaultdict(set)
        for voice in voices:
            if voice.held_out:
                self._split_of[voice.name] = "test" if self._spec.test else ""
            elif voice.name not in self._split_of:
                by_accent[voice.labels.get("accent", "")].add(voice.name)
        held = {name for names in by_accent.values() for name in self._held_out(names)}
        every = set().union(*by_accent.values())
        held = held or set(self._held_out(every))  # so many accents that no one can spare a voice
        self._split_of |= {name: "test" if name in held else "train" for name in every}

    def _held_out(self, names: set[str]) -> list[str]:
        """Those for test: at least two where there are four."""
        ranked = sorted(names, key=lambda name: (seeds.share(self._seed, "split", f"tts/{name}"), name))
        held = max(round(len(ranked) * self._spec.test), min(2, len(ranked) // 2)) if self._spec.test else 0
        return ranked[:held]

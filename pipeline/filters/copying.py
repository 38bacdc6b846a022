"""Responses and questions that repeat all that is said, where they should not."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import Annotated

from pydantic import Field, PositiveInt

from pipeline.stage import Filter
from pipeline.text import contains, spaced, words
from schemas.sample import Rejection, Sample

_APART = 3  # words in between at most: a long answer has all words of a short sentence somewhere


class Copying(Filter):
    """Looks for the transcript in what an LLM wrote: whole, or but for a few words."""

    fewest_words: PositiveInt = 6
    """Shorter transcripts may well come up in an answer. In Chinese and the like, twice as many characters."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Of the transcript's words that stand in the same order."""

    def reason(self, sample: Sample) -> Rejection | None:
        if not sample.provenance.engine:
            return None
        language = sample.utterances[0].language
        said = _units(sample.transcript, language)
        if len(said) < self.fewest_words * (1 if spaced(language) else 2):
            return None
        texts = {"response": sample.response}
        if sample.evidence:
            texts["question"] = sample.messages[-2].content
        for name, text in texts.items():
            written = _units(text, language)
            if len(written) >= self.share * len(said) and self._copied(said, written):
                return Rejection("copies_transcript", f"in the {name}: {text[:120]}")
        return None

    def _copied(self, said: list[str], written: list[str]) -> bool:
        if contains(written, said):
            return True
        if len(set(said) & set(written)) < self.share * len(set(said)):
            return False  # cheap, and nearly always enough
        blocks = SequenceMatcher(None, said, written, autojunk=False).get_matching_blocks()
        together = end = most = 0
        for _, begin, size in blocks:
            together = size + (together if begin - end <= _APART else 0)
            end, most = begin + size, max(most, together)
        return most >= self.share * len(said)


def _units(text: str, language: str | None) -> list[str]:
    """Words, or characters in languages without spaces."""
    found = words(text)
    return found if spaced(language) else list("".join(found))

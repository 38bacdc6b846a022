"""Responses in another language than the one that was asked for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from pipeline.stage import Filter
from pipeline.text import base, detect_language, is_plainly, letters, script_share
from schemas.conversation import AUDIO_PLACEHOLDER
from schemas.sample import Rejection, Sample

_FEWEST_LETTERS = 4  # for judging by the script
_OWN_SCRIPT = 0.6  # share of letters: names and terms may be foreign
_ALIKE = (
    {"no", "nb", "nn", "da"},
    {"hr", "sr", "bs", "sh", "sl"},
    {"id", "ms"},
    {"pt", "gl"},
    {"cs", "sk"},
    {"bg", "mk"},
    {"zh", "yue", "wuu"},
    {"hi", "ur"},
)
"""Languages that a short text does not tell apart."""


class Language(Filter):
    """First by the script, which is certain, then by fastText where there is enough text."""

    letters: PositiveInt = 24
    """A shorter text is judged by its script alone."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.6
    """How sure the detector must be of another language,"""
    doubt: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """and how little it must believe in the right one."""

    def reason(self, sample: Sample) -> Rejection | None:
        if not sample.provenance.engine or sample.language is None:
            return None
        for text in _written(sample):
            if (found := self._wrong(text, sample.language)) is not None:
                return found
        return None

    def _wrong(self, text: str, language: str) -> Rejection | None:
        wanted = base(language)
        if text.isascii() and is_plainly(text, wanted):
            return None
        share = script_share(text, language)
        length = letters(text)
        if share is not None and length >= _FEWEST_LETTERS and share < _OWN_SCRIPT:
            return Rejection("reply_wrong_language", f"{share:.0%} of the letters are of {wanted}: {text[:80]}")
        if length < self.letters or is_plainly(text, wanted):
            return None
        likely = detect_language(text[:500])
        top = max(likely, key=likely.__getitem__, default=wanted)
        alike: set[str] = next((group for group in _ALIKE if wanted in group), set()) | {wanted}
        believed = sum(p for name, p in likely.items() if name in alike)
        if top not in alike and likely[top] >= self.confidence and believed <= self.doubt:
            return Rejection("reply_wrong_language", f"{top} instead of {wanted}: {text[:80]}")
        return None


def _written(sample: Sample) -> list[str]:
    """What the LLM wrote: the response, unless it is a letter, and the question where it is the LLM's too."""
    texts = [] if sample.evidence and sample.choices else [sample.response]
    if sample.evidence:
        texts.append(sample.messages[-2].content.replace(AUDIO_PLACEHOLDER, "").strip())
    return texts

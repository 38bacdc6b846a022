"""Translation of what is said.

A row: `Translate into German.` (He hoped there would be stew) -> `Er hoffte, es gebe Eintopf.`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from pipeline.tasks.base import Brief, LLMTask, alone, spoken
from pipeline.text import base, language_name, language_tag
from schemas.sample import Sample
from schemas.utterance import Utterance


class Translation(LLMTask):
    """Into a language drawn from `targets`, never that of the speech."""

    variables: ClassVar[frozenset[str]] = frozenset({"transcript", "target"})
    fewest_words: ClassVar[int] = 2

    targets: Annotated[list[str], Field(min_length=1)] = ["en", "ru", "pt", "de", "es", "fr"]
    """BCP-47 tags, or names of languages in English."""

    @field_validator("targets")
    @classmethod
    def _are_languages(cls, targets: list[str]) -> list[str]:
        tags = {target: language_tag(target) for target in targets}
        unknown = [target for target, tag in tags.items() if tag is None]
        if unknown:
            raise ValueError(f"no language is called {unknown[0]!r}; BCP-47 tags such as pt-BR are expected")
        return [tag for tag in tags.values() if tag]

    def fits(self, utterance: Utterance) -> bool:
        return super().fits(utterance) and utterance.language is not None and bool(self._others(utterance))

    def _others(self, utterance: Utterance) -> list[str]:
        return [t for t in self.targets if base(t) != base(utterance.language)]

    def _target(self, draft: Sample, brief: Brief) -> str:
        return brief.rng.choice(self._others(draft.utterances[0]))

    def values(self, draft: Sample, brief: Brief) -> dict[str, Any]:
        target = self._target(draft, brief)
        return {"transcript": spoken(draft), "target": language_name(target, brief.language)}

    def answer(self, draft: Sample, brief: Brief, reply: str) -> Iterable[Sample]:
        target = self._target(draft, brief)
        name = language_name(target, brief.language)
        yield self.sample(alone(draft), brief, reply, language=target, values={"target": name})

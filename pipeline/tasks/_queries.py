"""What the two tasks that write tool queries share: the mix of situations, and the way to a sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Annotated, Any, ClassVar, Literal

import orjson
from msgspec.structs import replace
from pydantic import Field, field_validator

from pipeline import seeds
from pipeline.tasks.base import Brief, Task
from pipeline.text import base
from pipeline.tools import matching
from pipeline.tools.catalogue import Catalogue
from pipeline.tools.dialogue import OUTCOMES, Dialogue, NothingLeft, Scene
from schemas.conversation import Message
from schemas.sample import Sample
from schemas.utterance import Utterance

MIX = {
    "one_call": 0.30,
    "parallel": 0.10,
    "dependent": 0.06,
    "correction": 0.08,
    "hesitation": 0.06,
    "missing_argument": 0.12,
    "no_fitting_tool": 0.08,
    "not_needed": 0.08,
    "no_tools": 0.06,
    "mention": 0.06,
}
"""Shares of the situations: three of five are calls, and each other outcome is often enough to be learnt."""
_GOLDEN = 0.6180339887498949
"""Multiples of it, modulo 1, fill the unit interval evenly: the mix holds for few queries, too."""


class Queries(Task):
    """A task that writes what is said to an assistant that has tools."""

    is_plugin: ClassVar[bool] = False
    writes_queries: ClassVar[bool] = True

    mix: dict[str, Annotated[float, Field(ge=0)]] = MIX
    """Shares of the situations; those that are not named do not occur."""
    most_tools: Annotated[int, Field(ge=1, le=64)] = 8
    """How many tools are offered at most."""
    told_in: Literal["speech", "english", "both"] = "both"
    """The language of the tools' descriptions: that of the speech, English, or now this, now that."""

    @field_validator("mix")
    @classmethod
    def _is_mix(cls, mix: dict[str, float]) -> dict[str, float]:
        unknown = set(mix) - set(OUTCOMES)
        if unknown:
            raise ValueError(f"there is no situation {sorted(unknown)[0]!r}; there are: {', '.join(OUTCOMES)}")
        if not sum(mix.values()):
            raise ValueError("at least one situation must have a share")
        return mix

    def fits(self, utterance: Utterance) -> bool:
        return utterance.catalogue is not None

    def situation(self, draft: Sample, brief: Brief, possible: Sequence[str]) -> str:
        """The situation of a query: they follow one another so that each has its share among any few of them.

        Raises:
            NothingLeft: None that `mix` gives a share to is possible.
        """
        shares = [(name, self.mix[name]) for name in possible if self.mix.get(name)]
        if not shares:
            asked = ", ".join(name for name, share in self.mix.items() if share)
            raise NothingLeft(f"the catalogue or its grammar has nothing for the situations of `mix`: {asked}")
        corpus, _, number = draft.utterances[0].id.rpartition("/")
        place = (int(number) * _GOLDEN + seeds.share(brief.seed[0], corpus, "mix")) % 1
        total = sum(share for _, share in shares)
        ends = accumulate(share / total for _, share in shares)
        return next((name for (name, _), end in zip(shares, ends, strict=True) if place < end), shares[-1][0])

    def scene(self, draft: Sample, brief: Brief, catalogue: Catalogue) -> Scene:
        """Where the dialogue of a draft is drawn."""
        language = base(draft.utterances[0].language) or "en"
        rng = seeds.rng(*brief.seed, "scene")
        told_in = {"speech": language, "english": "en", "both": rng.choice(["en", language])}[self.told_in]
        return Scene(catalogue, language, rng, brief.admits, told_in)

    def finished(self, draft: Sample, brief: Brief, scene: Scene, dialogue: Dialogue) -> Sample:
        """The sample of a dialogue: its turns are utterances that a voice has still to speak."""
        seat = draft.utterances[0]
        system, name = brief.prompts.instruction(scene.rng, brief.held_out, "default", scene.date())
        turns = tuple(
            replace(seat, id=seat.id if number == 0 else f"{seat.id}~{number + 1}", transcript=text, catalogue=None)
            for number, text in enumerate(dialogue.said)
        )
        return replace(
            draft,
            id=f"{seat.id}:{self.key}:0",
            utterances=turns,
            task=self.key,
            language=brief.language,
            messages=(Message("system", system), *dialogue.messages),
            tools=tuple(dialogue.offered),
            answer=matching.to_json(dialogue.accepted),
            outcome=dialogue.outcome,
            situation=dialogue.situation,
            mentions=tuple(dialogue.mentions),
            provenance=replace(draft.provenance, instruction=name, prompt=brief.prompts.digest),
        )

    def nothing(self, draft: Sample, why: str) -> Iterable[Sample]:
        """The draft, set aside."""
        written = replace(draft, id=f"{draft.utterances[0].id}:{self.key}:0", task=self.key)
        yield written.reject("nothing_to_ask", why)

    def score(self, sample: Sample, output: str) -> dict[str, float]:
        wanted = matching.from_json(sample.answer)
        calls = matching.calls_of(output)
        schemas: dict[str, Any] = {tool.name: orjson.loads(tool.parameters) for tool in sample.tools}
        right = not isinstance(calls, str) and matching.mismatch(wanted, calls, schemas) is None
        return {"correct": float(right)}

"""Requests for tools from weighted grammars, with no LLM: what is said and what is called cannot disagree.

A row: `Set a timer for, um, 20 minutes.` -> `start_timer(minutes=20)` -> `20 minutes, starting now.`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pipeline.tasks._queries import Queries
from pipeline.tasks.base import Brief
from pipeline.tools.dialogue import NothingLeft, Speaker
from schemas.sample import Sample


class ToolGrammar(Queries):
    """Dialogues of ten situations in the languages that a catalogue has grammars in."""

    is_plugin: ClassVar[bool] = True
    outcomes: ClassVar[tuple[str, ...]] = ("correction", "filler", "joint", "cannot")
    variables: ClassVar[frozenset[str]] = frozenset({"weekday", "date", "year", "iso", "value", "first", "second"})

    def make(self, draft: Sample, brief: Brief) -> Iterable[Sample]:
        seat = draft.utterances[0]
        catalogue = brief.catalogues[f"{seat.corpus}/{seat.catalogue}"]
        scene = self.scene(draft, brief, catalogue)
        if scene.language not in catalogue.grammars:
            yield from self.nothing(draft, f"{catalogue.path} has no grammar beside it in {scene.language!r}")
            return
        speaker = Speaker(scene, brief.prompts.response, self.most_tools)
        try:
            wanted = self.situation(draft, brief, [n for n in self.mix if speaker.can(n)])
        except NothingLeft as error:
            yield from self.nothing(draft, str(error))
            return
        # A small grammar may have nothing of a kind that the other split does not say: then it is a plain call.
        for situation in dict.fromkeys((wanted, "one_call")):
            try:
                dialogue = speaker.write(situation)
            except NothingLeft as error:
                why = f"{situation}: {error}"
                continue
            yield self.finished(draft, brief, scene, dialogue)
            return
        yield from self.nothing(draft, why)

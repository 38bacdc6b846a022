"""What the label tasks share: a question about something that the corpus says of an utterance."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pipeline.tasks.base import Brief, Task, alone, names_only
from pipeline.text import without_tags
from schemas.sample import Sample
from schemas.utterance import Utterance

_UNKNOWN = frozenset({"", "unknown", "other", "n/a", "none", "null", "nan", "xxx", "unspecified"})


def _plain(value: str) -> str:
    """A label as words; what stands for audio in messages is none."""
    return without_tags(value.replace("_", " "))


class LabelTask(Task):
    """An open question, or one with the possible answers listed where the recipe gives `choices`."""

    kinds: ClassVar[tuple[str, ...]] = ("open", "closed")
    outcomes: ClassVar[tuple[str, ...]] = ("default",)
    variables: ClassVar[frozenset[str]] = frozenset({"choices", "label"})
    field_name: ClassVar[str]

    choices: list[str] = []
    """The labels that there are; half of the questions then list them, shuffled."""

    @property
    def field(self) -> str:
        """The label that is asked about."""
        return self.field_name

    def fits(self, utterance: Utterance) -> bool:
        value = utterance.labels.get(self.field, "").strip()
        known = not self.choices or value in self.choices
        return utterance.is_speech and known and _plain(value).lower() not in _UNKNOWN

    def make(self, draft: Sample, brief: Brief) -> Iterable[Sample]:
        value = draft.utterances[0].labels[self.field].strip()
        plain = _plain(value)
        label = brief.prompts.name(plain)
        # Corpora label in English; a label without a name is said as they have it.
        named = brief.language == "en" or plain.lower() in brief.prompts.content.names
        options = list(dict.fromkeys(brief.prompts.name(_plain(choice)) for choice in self.choices))
        brief.rng.shuffle(options)
        closed = bool(options) and brief.rng.random() < 0.5
        yield self.sample(
            alone(draft),
            brief,
            brief.prompts.response(brief.rng, "default", label=label),
            answer=label,
            language=brief.language if named else None,
            kind="closed" if closed else "open",
            choices=options if closed else (),
            values=self.values(", ".join(options), label, brief),
        )

    def values(self, choices: str, label: str, brief: Brief) -> dict[str, str]:
        """What the instructions may name."""
        return {"choices": choices, "label": label}

    def score(self, sample: Sample, output: str) -> dict[str, float]:
        return {"correct": float(names_only(output, sample.answer, sample.choices))}

"""Task: what a model is to learn from an utterance, and how its answer is scored."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec.structs import replace
from pydantic import Field

from pipeline import seeds
from pipeline.prompting import Prompts, PromptSet
from pipeline.text import base, contains, lowered, normalise, presentable, spaced, words
from schemas.conversation import AUDIO_PLACEHOLDER, Message
from schemas.recipe import Options
from schemas.replies import Reply
from schemas.sample import Sample
from schemas.utterance import Utterance

if TYPE_CHECKING:  # who has no tools need not load them
    from pipeline.tools.catalogue import Catalogue


@dataclass(frozen=True)
class Brief:
    """What a task gets beside the draft, to make a sample of it."""

    prompts: PromptSet
    """In the language of the instruction."""
    seed: tuple[object, ...]
    """What the sample's seed is derived from."""
    held_out: bool
    """Whether the sample is for evaluation: its instruction is drawn from those never trained on."""
    test: float = 0.0
    """The share of what is drawn that only evaluation may have."""
    catalogues: Mapping[str, Catalogue] = field(default_factory=dict)
    """By name, for tasks that write queries."""

    @cached_property
    def rng(self) -> random.Random:
        """Draws what the task leaves to chance."""
        return seeds.rng(*self.seed)

    @property
    def language(self) -> str:
        """Of the instruction."""
        return self.prompts.language

    def admits(self, kind: str, content: str) -> bool:
        """Whether something drawn may appear in the sample's split: each thing belongs to one of them."""
        return not self.test or (seeds.share(self.seed[0], "belongs", kind, content) < self.test) == self.held_out


class Task(Options):
    """One kind of example. Subclasses are plugins: one file, and one folder of prompts, each."""

    is_plugin: ClassVar[bool] = True
    key: ClassVar[str]
    """The task's name: that of its file."""
    uses_llm: ClassVar[bool] = False
    kinds: ClassVar[tuple[str, ...]] = ("default",)
    """The questions that the task asks; its prompts have paraphrases of each."""
    outcomes: ClassVar[tuple[str, ...]] = ()
    """The answers that it gives; its prompts have phrasings of each."""
    variables: ClassVar[frozenset[str]] = frozenset()
    """The names that its templates may use."""
    companions: ClassVar[int] = 0
    """How many other utterances of the same split and language it looks at."""
    hears_companions: ClassVar[bool] = False
    """Whether it needs their audio, not only their transcripts."""
    writes_queries: ClassVar[bool] = False
    """Whether it writes what is said, and the voice comes after it."""
    may_copy: ClassVar[bool] = False
    """Whether a right response can be the whole transcript."""
    fewest_words: ClassVar[int] = 1

    weight: Annotated[float, Field(gt=0)] = 1.0
    """How often the task is drawn, against the other tasks that fit an utterance."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls.key = cls.__module__.rpartition(".")[2]

    def fits(self, utterance: Utterance) -> bool:
        """Whether the task can be set for an utterance, as far as its text and labels say."""
        text = presentable(utterance.transcript, utterance.language) if utterance.is_speech else ""
        said = lowered(text)
        if not spaced(utterance.language):
            return bool(said) and (self.fewest_words <= 1 or len(text) >= 2 * self.fewest_words)
        return len(said) >= max(1, self.fewest_words)

    def make(self, draft: Sample, brief: Brief) -> Iterable[Sample]:
        """The samples of a task that computes its answers. At least one."""
        raise NotImplementedError

    def score(self, sample: Sample, output: str) -> dict[str, float]:
        """How good a model's output is for a sample; each figure in [0, 1] but WER, which can be more."""
        return {"correct": float(normalise(output) == normalise(sample.answer or sample.response))}

    # What follows serves the subclasses.

    def sample(
        self,
        draft: Sample,
        brief: Brief,
        response: str,
        *,
        answer: str = "",
        number: int = 0,
        kind: str = "default",
        language: str | None = "",
        choices: Iterable[str] = (),
        evidence: str = "",
        values: Mapping[str, Any] | None = None,
    ) -> Sample:
        """A finished sample: an instruction with the audio, and the response.

        Args:
            response: What the model is to say.
            answer: The canonical answer, if that is not the response.
            number: Tells samples of one utterance and task apart.
            kind: Which of the task's questions.
            language: Of the response, None where nobody knows; the instruction's if omitted.
            values: For the instruction's template.
        """
        text, name = brief.prompts.instruction(brief.rng, brief.held_out, kind, values or {})
        audio = "\n".join([AUDIO_PLACEHOLDER] * len(draft.utterances))
        content = f"{audio}\n{text}" if brief.rng.random() < 0.5 else f"{text}\n{audio}"
        return replace(
            draft,
            id=f"{draft.utterances[0].id}:{self.key}:{number}",
            task=self.key,
            language=brief.language if language == "" else language,
            messages=(Message("user", content), Message("assistant", response)),
            choices=tuple(choices),
            answer=answer or response,
            evidence=evidence,
            provenance=replace(draft.provenance, instruction=name, prompt=brief.prompts.digest),
        )


@dataclass(frozen=True, slots=True)
class Question:
    """What a text LLM is asked, before an engine adds model, seed and sampling."""

    messages: tuple[Message, ...]
    reply: type[Reply] | None = None
    """The structure that the reply must have; None for free text."""
    most_tokens: int = 512


class LLMTask(Task):
    """A task whose responses a text LLM writes, from the transcript."""

    uses_llm: ClassVar[bool] = True
    reply: ClassVar[type[Reply] | None] = None
    checks: ClassVar[bool] = False
    """Whether what the LLM has written is confirmed by a second request."""
    variables: ClassVar[frozenset[str]] = frozenset({"transcript"})
    most_tokens: int = 512
    """The LLM stops there."""

    def ask(self, draft: Sample, brief: Brief) -> Question:
        """What the LLM is asked for a draft."""
        values = self.values(draft, brief)
        system = brief.prompts.render(brief.prompts.content.system, values)
        user = brief.prompts.render(brief.prompts.content.user, values)
        messages = (Message("system", system),) if system else ()
        return Question((*messages, Message("user", user)), self.reply, self.most_tokens)

    def values(self, draft: Sample, brief: Brief) -> dict[str, Any]:
        """What the templates of the LLM's prompt may name."""
        return {"transcript": spoken(draft)}

    def answer(self, draft: Sample, brief: Brief, reply: Any) -> Iterable[Sample]:
        """The samples that a reply gives: text, or an instance of `reply`. At least one."""
        raise NotImplementedError

    def check(self, sample: Sample, brief: Brief) -> Question | None:
        """What the LLM is asked about a finished sample, in a request of its own; None where nothing is."""
        return None

    def checked(self, sample: Sample, brief: Brief, reply: Any) -> Sample:
        """The sample, set aside if the reply to `check` contradicts it."""
        return sample


def spoken(draft: Sample) -> str:
    """What is said in a draft, as a person would write it."""
    utterance = draft.utterances[0]
    return presentable(utterance.transcript, utterance.language)


def alone(draft: Sample) -> Sample:
    """The draft without its companions."""
    return replace(draft, utterances=draft.utterances[:1])


def licence_of(utterances: Iterable[Utterance]) -> str | None:
    """The licence of what several utterances are mixed into."""
    return " AND ".join(sorted({u.licence for u in utterances if u.licence})) or None


def names_only(output: str, answer: str, others: Iterable[str]) -> bool:
    """Whether an output names one of some labels and none of the others."""
    text, wanted = normalise(output), normalise(answer)
    wrong = (normalise(other) for other in others)
    return contains(text.split(), wanted.split()) and not any(
        contains(text.split(), w.split()) for w in wrong if not contains(wanted.split(), w.split())
    )


def said(sample: Sample, words_: str) -> bool:
    """Whether a run of words is said in a sample, but for case and punctuation."""
    language = sample.utterances[0].language
    if not spaced(language):
        return normalise(words_).replace(" ", "") in normalise(sample.transcript).replace(" ", "")
    return contains(words(sample.transcript), words(words_))


class Briefing:
    """Gives each sample its brief, equal whenever it is asked for.

    Args:
        prompts: Where the texts are.
        seed: The recipe's.
        languages: Instruction languages to draw from; empty means the language of the speech where
            there are prompts in it, or else English.
        test: The share of speakers that go to test.
        catalogues: By name.
    """

    def __init__(
        self,
        prompts: Prompts,
        seed: int,
        languages: list[str],
        test: float = 0.0,
        catalogues: Mapping[str, Catalogue] | None = None,
    ) -> None:
        self._prompts, self._seed, self._languages = prompts, seed, languages
        self._test, self._catalogues = test, catalogues or {}
        self._known: dict[str, list[str]] = {}

    def languages(self, task: Task) -> list[str]:
        """The languages that a task's instructions may be in."""
        there = self._prompts.languages(task.key)
        if task.writes_queries:  # in the language that is spoken
            return there
        return [name for name in there if name in self._languages] if self._languages else there

    def __call__(self, task: Task, utterance: Utterance, split: str) -> Brief:
        there = self._known.get(task.key) or self._known.setdefault(task.key, self.languages(task))
        drawn = self._languages and not task.writes_queries
        if drawn and len(self._languages) == 1:
            language = there[0]
        elif drawn:
            language = there[seeds.derive(self._seed, utterance.id, task.key, "language") % len(there)]
        else:
            language = base(utterance.language) if base(utterance.language) in there else "en"
        seed = (self._seed, utterance.id, task.key)
        return Brief(self._prompts.get(task.key, language), seed, split == "test", self._test, self._catalogues)

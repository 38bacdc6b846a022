"""Texts: what is said and answered in the closed world, drawn as often as wanted.

Conversations come from the very task that writes the dataset's rows, with other seeds, and obey the same division:
what a test may say is never drawn for training. Beside them stand words in no order, by which an encoder learns to
spell what it has never heard and an LLM to copy what it has never read.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline import seeds
from pipeline.prompting import Prompts
from pipeline.spoken import spoken
from pipeline.tasks.base import Brief
from pipeline.tasks.tool_grammar import ToolGrammar
from pipeline.text import words
from pipeline.tools import catalogue
from pipeline.tools.catalogue import Catalogue
from schemas.sample import Sample
from schemas.utterance import Utterance

DATA = Path(__file__).resolve().parent.parent.parent / "data"
WORLD = DATA / "closed_world"
PROMPTS = WORLD / "prompts"
SEED = 7
"""Of the datasets' recipes; a draw of the same seed obeys the same division."""
TEST = 0.1
"""Share of calls and of texts that only tests may have."""
MIX = {"one_call": 0.7, "no_fitting_tool": 0.15, "not_needed": 0.15}
MOST_TOOLS = 4
SEEN, TEMPLATES, VALUES, WILD = "seen", "templates", "values", "wild"
CATALOGUES = (SEEN, TEMPLATES, VALUES, WILD)
"""The same tools: as in training; asked for in other ways; with other values; and with words that are no values at
all, from which the bases learn that anything may stand there."""
_CLOSED = frozenset({"state", "phone", "day"})
"""Pools whose values are the same everywhere."""
_WILD = 150  # values of a pool
_SYLLABLES = (
    "ba be bi bo da de di do fa fe fi ga go ka ke ki ko la le li lo ma me mi mo na ne ni no pa pe pi po ra re ri ro "
    "sa se si so ta te ti to va ve vi wa we wi za zo sha she cha chi tha bra cri dro fla gre pla pri sta sto tra tri"
).split()
_ENDS = ("", "n", "r", "s", "t", "l", "m", "d", "k", "p", "st", "nd", "ng", "ck")
_MADE_UP = 0.3  # of the words in no order


def write_catalogues(folder: Path) -> None:
    """The three catalogues, each in a folder of its own with the grammar beside it."""
    content = json.loads((WORLD / "assistant.json").read_text("utf-8"))
    others = {VALUES: _unseen(), WILD: {pool: _wild(pool) for pool in content["pools"] if pool not in _CLOSED}}
    for name in CATALOGUES:
        own = content | {"pools": content["pools"] | others.get(name, {})}
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        (place / "assistant.json").write_text(json.dumps(own, indent=1), "utf-8")
        shutil.copy(WORLD / f"{'templates' if name == TEMPLATES else 'assistant'}.en.yaml", place / "assistant.en.yaml")


def _unseen() -> dict[str, list[str]]:
    content: dict[str, list[str]] = YAML(typ="safe").load((WORLD / "values.yaml").read_text("utf-8"))
    return content


def _wild(pool: str) -> list[str]:
    """Made-up words; those of people and towns are written large."""
    rng = generator("wild", pool)
    made = dict.fromkeys(" ".join(_made_up(rng) for _ in range(1 + (rng.random() < 0.2))) for _ in range(_WILD))
    kept = [text for text in made if unseen().isdisjoint(text.split())]
    return [text.title() for text in kept] if pool in ("person", "city") else kept


class World:
    """All that can be said in the closed world.

    Args:
        folder: With the catalogues that `write_catalogues` wrote.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._prompts = Prompts(PROMPTS).get("tool_grammar", "en")
        self._task = ToolGrammar(mix=MIX, most_tools=MOST_TOOLS)
        self._catalogues: dict[str, Catalogue] = {}

    def conversations(self, name: str, count: int, which: str = SEEN, test: bool = False) -> Iterator[Sample]:
        """Rows of the task, without sound: fresh ones for each name.

        Args:
            name: Of the draw.
            count: How many.
            which: Of `CATALOGUES`.
            test: Whether what belongs to tests is drawn, instead of what belongs to training.
        """
        if which not in self._catalogues:
            self._catalogues[which] = catalogue.load(self._folder / which / "assistant.json")
        yield from _drawn(self._task, self._prompts, self._catalogues[which], name, count, test)

    def requests(self, name: str, count: int, which: str = SEEN, test: bool = False) -> Iterator[str]:
        """What is said in such rows."""
        yield from (sample.utterances[0].transcript for sample in self.conversations(name, count, which, test))


@lru_cache(maxsize=1)
def unseen() -> frozenset[str]:
    """Words of the values that only tests may have."""
    return frozenset(word for values in _unseen().values() for value in values for word in words(value))


@lru_cache(maxsize=1)
def general() -> tuple[str, ...]:
    """Everyday sentences, and requests for all the catalogues that are shipped, as they are spoken.

    None has a word of an unseen value.
    """
    prompts = Prompts().get("tool_grammar", "en")
    found = dict.fromkeys((DATA / "text" / "daily.en.txt").read_text("utf-8").splitlines())
    for path in catalogue.files(catalogue.SHIPPED):
        task = ToolGrammar(mix={"one_call": 1.0})
        for sample in _drawn(task, prompts, catalogue.load(path), "general", 250, False):
            found |= dict.fromkeys(one.transcript for one in sample.utterances)
    said = dict.fromkeys(plain(text) for text in found)
    return tuple(text for text in said if text and unseen().isdisjoint(text.split()))


@lru_cache(maxsize=1)
def lexicon() -> tuple[str, ...]:
    """All words of these."""
    return tuple(sorted({word for text in general() for word in text.split()}))


def babble(rng: random.Random, least: int = 2, most: int = 8) -> str:
    """Words in no order; some are made up of syllables and mean nothing."""
    return " ".join(_word(rng) for _ in range(rng.randint(least, most)))


def _word(rng: random.Random) -> str:
    if rng.random() >= _MADE_UP:
        return rng.choice(lexicon())
    while (word := _made_up(rng)) in unseen():
        pass
    return word


def plain(text: str) -> str:
    """A text as it is heard: small letters, numbers in words, no marks."""
    aloud = spoken(text, "en").lower().replace("’", "'")
    return " ".join(re.sub(r"[^a-z' ]+", " ", aloud).split())


def generator(*parts: object) -> random.Random:
    """Draws for one purpose."""
    return seeds.rng("closed-world", *parts)


def _drawn(task: ToolGrammar, prompts: Any, of: Catalogue, name: str, count: int, test: bool) -> Iterator[Sample]:
    for number in range(count):
        utterance = Utterance(f"world/{name}/{number}", "world", language="en", catalogue=of.name)
        draft = Sample(utterance.id, (utterance,), "test" if test else "train")
        brief = Brief(prompts, (SEED, utterance.id, task.key), test, TEST, {f"world/{of.name}": of})
        yield from (sample for sample in task.make(draft, brief) if sample.rejected is None)


def _made_up(rng: random.Random) -> str:
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(1, 3))) + rng.choice(_ENDS)

"""Instruct: tasks are drawn for an utterance, and each makes its samples or its question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import log

from msgspec.structs import replace

from pipeline import seeds
from pipeline.stage import Stage
from pipeline.tasks.base import Briefing, Task, alone
from schemas.sample import Sample

_TINY = 2.0**-64  # below every other share


def draw(tasks: Sequence[Task], draft: Sample, seed: int, most: int | None) -> list[Task]:
    """The tasks that are set for a draft: the first by weighted chance, of those that fit.

    Each task's chance comes from a seed of its own (Efraimidis and Spirakis, 2006), so adding a
    task to a recipe changes nothing about the utterances that it is not drawn for.
    """
    utterance = draft.utterances[0]
    unwritten = utterance.catalogue is not None
    fitting = [task for task in tasks if task.writes_queries == unwritten and task.fits(utterance)]
    if most is None or len(fitting) <= most:
        return fitting
    # The logarithms of their keys, which small weights would bring down to 0.
    key = {t.key: log(seeds.share(seed, utterance.id, "draw", t.key) or _TINY) / t.weight for t in fitting}
    chosen = set(sorted(key, key=key.__getitem__, reverse=True)[:most])
    return [task for task in fitting if task.key in chosen]


class Instruct(Stage):
    """Drafts to samples.

    Computed tasks are finished here; a task that needs the LLM leaves a sample with its name, which
    `Generate` completes.

    Args:
        tasks: All of the recipe's.
        briefing: Gives instructions and seeds.
        seed: The recipe's.
        most: How many tasks an utterance; None means all that fit.
    """

    def __init__(self, tasks: Sequence[Task], briefing: Briefing, seed: int, most: int | None) -> None:
        self._tasks, self._briefing, self._seed, self._most = tasks, briefing, seed, most

    def process(self, sample: Sample) -> Iterable[Sample]:
        tasks = self.tasks_of(sample)
        if not tasks:
            names = ", ".join(task.key for task in self._tasks)
            yield alone(sample).reject("no_task_fits", f"of {names}")
        for task in tasks:
            if task.uses_llm:
                yield replace(alone(sample), id=f"{sample.id}:{task.key}", task=task.key)
            else:
                yield from task.make(sample, self._briefing(task, sample.utterances[0], sample.split))

    def tasks_of(self, draft: Sample) -> list[Task]:
        """The tasks that are set for a draft."""
        return draw(self._tasks, draft, self._seed, self._most)

    def hears_companions(self, draft: Sample) -> bool:
        """Whether one of them listens to the companions."""
        return any(task.hears_companions for task in self.tasks_of(draft))

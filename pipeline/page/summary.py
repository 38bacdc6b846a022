"""Summary: what the figures of a page count, gathered in one pass over the small columns."""

from __future__ import annotations

from collections import Counter, defaultdict

from pipeline.page.charts import Chart, Distribution, bars, number, time
from pipeline.page.columns import Glance
from schemas.manifest import DatasetManifest

_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_DECIBELS = (1.0, 2.0, 5.0, 10.0)
SNR = "snr_db"


class Summary:
    """Counts of rows, and of distinct kept utterances; nothing else is remembered of them."""

    def __init__(self) -> None:
        self.voices: Counter[str] = Counter()
        self.verified = 0
        """Kept utterances that an ASR engine has listened to."""
        self.utterances = 0
        self._languages: dict[str, float] = defaultdict(float)
        self._durations = Distribution(0.1)
        self._wers = Distribution(0.01)
        self._snrs = Distribution(1.0)
        self._effects: Counter[str] = Counter()
        self._plain = 0
        self._outcomes: Counter[str] = Counter()
        self._situations: Counter[str] = Counter()
        self._seen: set[str] = set()

    def begin(self) -> None:
        """A new shard comes: an utterance is in one alone."""
        self._seen.clear()

    def add(self, row: Glance) -> None:
        """Counts one row."""
        if row.wer is not None:
            self._wers.add(row.wer, row.reason is not None)
        if row.reason is not None:
            return
        if row.outcome:
            self._outcomes[row.outcome] += 1
        if row.situation:
            self._situations[row.situation] += 1
        for utterance in row.utterances:
            if utterance.id in self._seen:
                continue
            self._seen.add(utterance.id)
            seconds = utterance.seconds or 0.0
            self.utterances += 1
            self.verified += utterance.heard
            self._languages[utterance.language or "unknown"] += seconds
            self._durations.add(seconds)
            if utterance.voice:
                self.voices[utterance.voice] += 1
            self._add_effects(utterance.effects)

    def _add_effects(self, effects: list[tuple[str, str]]) -> None:
        self._plain += not effects
        for name, value in effects:
            self._effects[name] += 1
            if name == SNR:
                try:
                    self._snrs.add(float(value))
                except (ValueError, OverflowError):  # of another's making: it is counted by name all the same
                    continue

    def charts(self, dataset: DatasetManifest) -> list[Chart]:
        """The figures of a dataset, those without anything to show left out."""
        durations, wers, snrs = self._durations, self._wers, self._snrs
        middle, most = durations.quantile(0.5), durations.quantile(0.95)
        heard = (
            f"rows by word error rate; half at most {wers.quantile(0.5):.0%}, 95 % at most {wers.quantile(0.95):.0%}"
        )
        noise = f"distinct kept utterances by signal-to-noise ratio; half at most {snrs.quantile(0.5):g} dB"
        splits = {name: float(split.rows) for name, split in dataset.splits.items()}
        sizes = {name: f"{number(split.rows)} · {time(split.seconds)}" for name, split in dataset.splits.items()}
        effects = dict(self._effects) | ({"none": self._plain} if self._effects else {})
        hours = {name: time(seconds) for name, seconds in self._languages.items()}
        licences = {name: time(seconds) for name, seconds in dataset.licences.items()}
        figures = [
            durations.histogram(
                "Durations",
                f"distinct kept utterances; half at most {middle:.1f} s, 95 % at most {most:.1f} s",
                _SECONDS,
                " s",
            ),
            wers.histogram("Word error rate", heard, _RATES, " %", scale=100),
            bars("Tasks", dataset.tasks, "kept rows"),
            bars("Outcomes", self._outcomes, "kept rows that concern tools"),
            bars("Situations", self._situations, "kept rows that concern tools"),
            bars("Set aside", dataset.reasons, "rows by reason", kind="rejected"),
            bars("Splits", splits, "kept rows, time of source audio", shown=sizes),
            bars("Languages", self._languages, "speech of distinct kept utterances", shown=hours),
            bars("Voices", self.voices, "distinct kept utterances of synthetic speech"),
            snrs.histogram("Noise", noise, _DECIBELS, " dB"),
            bars("Effects", effects, "distinct kept utterances by what was done to their sound"),
            bars("Licences", dataset.licences, "source audio, each utterance once", shown=licences),
        ]
        return [figure for figure in figures if figure is not None]

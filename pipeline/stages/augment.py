"""Augment: the sound of some utterances is changed, as rooms, noises, lines and devices change it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from pipeline import seeds
from pipeline.audio import samples_of, store
from pipeline.effects.base import Draw, Effect, Told
from pipeline.stage import Stage
from schemas.recipe import AugmentSpec
from schemas.sample import Sample
from schemas.utterance import AUGMENTED, Utterance

_REMEMBERED = 16  # utterances whose changed sound is kept: the rows of one come one after another


class Augment(Stage):
    """Changes a share of the utterances, each by effects that are drawn for it, in their physical order.

    What is drawn depends on the recipe's seed and the id of the sample's first utterance: rows of one utterance
    have equal sound, and the turns of one conversation are heard in one room, over one line. Mixtures, and sounds
    in which nobody speaks, are left as they are: their labels are about the sound itself.

    Args:
        effects: The recipe's.
        spec: Which share is changed, and whether the clean row stays.
        seed: The recipe's.
        test: The share of noises that only test may hear.
    """

    def __init__(self, effects: Iterable[Effect], spec: AugmentSpec, seed: int, test: float = 0.0) -> None:
        self._effects = sorted(effects, key=lambda effect: (effect.order, effect.name))
        self._spec, self._seed = spec, seed
        self._shares = {"train": spec.train, "test": spec.test}
        self._test = test if spec.test else 0.0
        self._remembered: OrderedDict[tuple[str, str, str], Utterance] = OrderedDict()

    def process(self, sample: Sample) -> Iterable[Sample]:
        scene = sample.utterances[0].id
        if seeds.share(self._seed, scene, "augment") >= self._shares.get(sample.split, 0.0):
            yield sample
            return
        changed = tuple(self._changed(u, scene, sample.split) for u in sample.utterances)
        if changed == sample.utterances:
            yield sample
            return
        if not self._spec.keep_clean:
            yield replace(sample, utterances=changed)
            return
        yield sample
        # Of two rows from one reply the first carries its tokens.
        made = replace(sample.provenance, attempts=0, prompt_tokens=0, completion_tokens=0, reply="")
        named = tuple(replace(u, id=u.id + AUGMENTED) if u.effects else u for u in changed)
        yield replace(sample, id=sample.id + AUGMENTED, utterances=named, provenance=made)

    def _changed(self, utterance: Utterance, scene: str, split: str) -> Utterance:
        """The utterance with another sound, or the same where none can be made."""
        if utterance.audio is None or utterance.parts or not utterance.is_speech or utterance.effects:
            return utterance
        key = scene, utterance.id, utterance.audio.digest
        if key not in self._remembered:
            self._remembered[key] = self._applied(utterance, scene, split)
            if len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        # Rows of one utterance differ in all but the sound.
        heard = self._remembered[key]
        return replace(
            utterance,
            audio=heard.audio,
            effects=heard.effects,
            clean_digest=heard.clean_digest,
            licence=heard.licence,
            duration=heard.duration,
        )

    def _applied(self, utterance: Utterance, scene: str, split: str) -> Utterance:
        clean = utterance.audio
        assert clean is not None
        samples, told = samples_of(clean), Told()
        licences = set(utterance.licence.split(" AND ")) if utterance.licence else set()
        for effect in self._drawn(scene):
            draw = Draw(
                seeds.rng(self._seed, scene, "effect", effect.name), self._spec.longest, split == "test", self._test
            )
            samples, done = effect.apply(samples, draw)
            told |= done
            if done and effect.adds:
                licences.add(effect.adds)
        if not told:
            return utterance
        clipped = max(clean.clipped, float(told.get("clipped_share", 0)))
        audio = store(
            samples, sampling_rate=clean.sampling_rate, channels=clean.channels, kind=clean.format, clipped=clipped
        )
        return replace(
            utterance,
            # Copies are looked for among the clean sounds.
            audio=replace(audio, fingerprint=clean.fingerprint),
            effects=told,
            clean_digest=clean.digest,
            licence=" AND ".join(sorted(licences)) or None,
            duration=utterance.duration if audio.seconds == clean.seconds else None,
        )

    def _drawn(self, scene: str) -> Sequence[Effect]:
        """The effects for an utterance: each by its own chance, and if that is none, one of them."""
        drawn = [e for e in self._effects if seeds.share(self._seed, scene, "chance", e.name) < e.chance]
        if drawn:
            return drawn
        chances = [effect.chance for effect in self._effects]
        return seeds.rng(self._seed, scene, "one effect").choices(self._effects, chances)

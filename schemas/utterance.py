"""Utterance: recorded or synthetic speech and what is known about it."""

from __future__ import annotations

from msgspec import Struct

AUGMENTED = ":augmented"
"""Ends the ids of augmented utterances and rows whose clean ones are kept beside them."""


class AudioSource(Struct, frozen=True, gc=False):
    """Where the speech of an utterance lies. Nothing is read until its unit is built."""

    path: str
    """A file, relative to the corpus's audio root; or an archive, or a dataset folder."""
    member: str | None = None
    """The name of a member of the archive, or the number of a row of the dataset."""
    start: float = 0.0
    """Seconds from the beginning of the file."""
    duration: float | None = None
    """Seconds; None means to the end of the file."""
    channel: int | None = None
    """Zero-based; None means all channels mixed down."""
    offset: int | None = None
    """Where the member's bytes begin in an archive that does not compress."""
    size: int | None = None
    """How many they are."""
    identity: str = ""
    """What changes when the file changes (size and modification time), for the unit's id."""

    def __str__(self) -> str:
        name = self.path if self.member is None else f"{self.path}!{self.member}"
        if self.start or self.duration is not None:
            end = "" if self.duration is None else f"{self.start + self.duration:g}"
            name += f" [{self.start:g}-{end} s]"
        return name if self.channel is None else f"{name} channel {self.channel}"


class Audio(Struct, frozen=True, gc=False):
    """Speech as it is stored, 16 kHz mono FLAC, and what was measured while decoding it."""

    flac: bytes
    seconds: float
    sampling_rate: int
    """Of the source in Hz, before resampling to 16 kHz."""
    channels: int
    """Of the source, before mixing down."""
    format: str
    """Of the source as libsndfile names it, e.g. `WAV/PCM_16`."""
    peak_dbfs: float
    speech_dbfs: float
    """Level of the loudest tenth of 25 ms frames: silence around speech does not lower it."""
    clipped: float
    """Share of the source's samples that lie in runs at full scale."""
    digest: str
    """Of the 16 kHz samples: equal for equal sound, whatever the container."""
    fingerprint: bytes
    """Of the spectral shape: near for near-equal sound, whatever the codec, rate and level. Of an augmented
    utterance that of its clean sound."""


class Part(Struct, frozen=True, gc=False):
    """One of the utterances that a mixture was made of."""

    id: str
    speaker: str | None


class Delivery(Struct, frozen=True, gc=False):
    """How synthetic speech was made."""

    engine: str
    licence: str | None = None
    """Of the engine's model and the voice together."""
    rate: float = 1.0
    """Against the voice's own pace: 1.1 is a tenth quicker."""
    pitch: float = 1.0
    """Against the voice's own."""


class Utterance(Struct, frozen=True, gc=False):
    """Speech with its transcript. Recorded and synthetic speech are the same type."""

    id: str
    """`corpus/key`, unique in a dataset."""
    corpus: str
    transcript: str = ""
    """As the corpus writes it; empty where unknown."""
    language: str | None = None
    """BCP-47 tag, e.g. `en` or `pt-BR`."""
    speaker: str | None = None
    """`corpus/name`; None where the corpus does not say."""
    recording: str | None = None
    """The recording that this is a segment of; splits use it where no speaker is known."""
    licence: str | None = None
    source: AudioSource | None = None
    """None for text that is to be spoken, and for mixtures."""
    duration: float | None = None
    """Seconds, as the corpus claims."""
    sampling_rate: int | None = None
    """Hz, as the corpus claims."""
    labels: dict[str, str] = {}
    """Whatever else the corpus says: emotion, accent, gender, intent, ..."""
    split: str | None = None
    """The corpus's own split, if it has any."""
    voice: str | None = None
    """The TTS preset of synthetic speech."""
    spoken: str | None = None
    """What the voice was given, numbers and abbreviations in words; None for recordings."""
    delivery: Delivery | None = None
    """None for recordings, and for what is not yet spoken."""
    effects: dict[str, str] = {}
    """What was done to the sound afterwards, by name: `snr_db: 12.0`."""
    clean_digest: str | None = None
    """Of the sound before that, as `Audio.digest`; None where nothing was done."""
    hypothesis: str | None = None
    """What an ASR engine heard; None where none has listened."""
    catalogue: str | None = None
    """The tool catalogue of a query that is still to be written."""
    parts: tuple[Part, ...] = ()
    """For mixtures: what was mixed."""
    problem: str | None = None
    """A reader's complaint as `reason: detail`; the utterance ends as a rejected row."""
    audio: Audio | None = None
    """None until it is decoded, synthesised or mixed."""

    @property
    def clean_id(self) -> str:
        """The id that it has in the corpus, of which it may be an augmented copy."""
        return self.id.removesuffix(AUGMENTED) if self.effects else self.id

    @property
    def is_speech(self) -> bool:
        """Whether somebody speaks in it; corpora of noise carry the label `speech: no`."""
        return self.labels.get("speech") != "no"

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from msgspec.structs import replace

from pipeline import audio
from pipeline.asr.base import Clip
from pipeline.asr.transformers import Transformers
from pipeline.closed_world import ears, tongue, voices
from pipeline.closed_world.learning import Learning
from pipeline.closed_world.texts import World, generator
from pipeline.model import compose
from pipeline.text import presentable
from schemas.sample import Sample
from schemas.training import ModelSpec


def composed(bases: tuple[Path, Path, list[str]]) -> object:
    return compose(ModelSpec(encoders=[str(bases[0])], adapter={"kind": "mlp", "factor": 2}, llm=str(bases[1])))


def test_what_the_llm_learns_from_is_what_the_trainer_later_gives_it(
    bases: tuple[Path, Path, list[str]], world: World
) -> None:
    speech_lm = composed(bases)
    reader = tongue.Reader(speech_lm.tokenizer, world)
    rng = generator("same")
    conversations = list(world.conversations("same", 30))
    samples = [*conversations, *(reader.copying(s, s.utterances[0].transcript, rng) for s in conversations[:5])]
    for sample in samples:
        text = sample.utterances[0].transcript
        ids, responds = reader.encoded(sample, reader.ids(presentable(text, "en")))
        given = speech_lm.encode(sample, hear=False, sounds=False)
        length = len(given.ids)  # what follows the last response is read by nobody
        assert given.ids.tolist() == ids[:length]
        assert given.targets.tolist() == responds[:length]
        assert not any(responds[length:])


def test_bad_spelling_says_the_same_letters(bases: tuple[Path, Path, list[str]], world: World) -> None:
    reader = tongue.Reader(composed(bases).tokenizer, world)
    rng = generator("spelled")
    for text in ["add butter to the list", "turn off the hall light", "coffee"]:
        for _ in range(20):
            ids = reader.spelled(text, rng)
            # A piece that is held comes twice at once; two equal letters have something between them.
            once = [i for n, i in enumerate(ids) if n == 0 or i != ids[n - 1]]
            assert reader._tokenizer.decode(once).replace("~", "").strip() == text


def test_losses_fall_and_are_told(bases: tuple[Path, Path, list[str]]) -> None:
    losses = [float(found[1]) for text in bases[2] if (found := re.search(r"tongue: .* loss ([\d.]+)", text))]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    assert any(re.search(r"ears: step 2/2, loss \d.*WER on unseen voices", text) for text in bases[2])


def test_the_ears_are_a_recogniser_and_an_encoder(bases: tuple[Path, Path, list[str]]) -> None:
    clip = voices.speak(["set a timer for ten minutes"], "test", voices.unseen_voices())[0]
    assert clip is not None
    heard = Transformers(model=str(bases[0]), device="cpu").transcribe([Clip(audio.store(clip, kind="test"), "en")])
    assert isinstance(heard[0], str)
    speech_lm = composed(bases)
    seconds = len(clip) / 16000
    assert abs(speech_lm.tokens(len(clip)) - 12.5 * seconds) < 2


def test_frames_are_read_as_ctc_says() -> None:
    numbers = [ears.LETTERS.index(c) for c in "hheel"] + [0] + [ears.LETTERS.index(c) for c in "lo||y"]
    assert ears._read([0, *numbers, 0]) == "hello y"


def test_learning_fits_a_line_and_rates_end_low() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 8)
    x = torch.randn(64, 8)
    y = x @ torch.randn(8, 8)
    learning = Learning(model, 0.1, 120)
    losses = [learning.step(((model(x) - y) ** 2).mean()) for _ in range(120)]
    assert losses[-1] < 0.1 * losses[0]
    assert all(group["lr"] < 0.005 for one in learning._optimizers for group in one.param_groups)


def test_a_conversation_is_cut_after_its_call(world: World, bases: tuple[Path, Path, list[str]]) -> None:
    reader = tongue.Reader(composed(bases).tokenizer, world)
    rng = generator("cut")
    whole: Sample = next(s for s in world.conversations("cut", 20) if len(s.messages) > 3)
    lengths = {len(reader.shortened(whole, rng).messages) for _ in range(60)}
    assert lengths == {3, len(whole.messages)}
    assert np.mean([len(reader.shortened(replace(whole), rng).messages) == 3 for _ in range(200)]) > 0.7

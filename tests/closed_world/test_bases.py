from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from pipeline import audio
from pipeline.asr.base import Clip
from pipeline.asr.transformers import Transformers
from pipeline.closed_world import ears, voices
from pipeline.closed_world.learning import Learning
from pipeline.closed_world.reading import Reader
from pipeline.closed_world.texts import World, generator
from pipeline.model import compose
from pipeline.text import presentable
from schemas.sample import Sample
from schemas.training import ModelSpec
from tests.closed_world.conftest import Made

pytestmark = pytest.mark.xdist_group("closed world")  # which is made once


def composed(made: Made) -> object:
    return compose(
        ModelSpec(encoders=[str(made.out / "ears")], adapter={"kind": "mlp", "factor": 2}, llm=str(made.out / "tongue"))
    )


def test_what_the_llm_learns_from_is_what_the_trainer_later_gives_it(made: Made, world: World) -> None:
    speech_lm = composed(made)
    reader = Reader(speech_lm.tokenizer, world)
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


def test_bad_spelling_says_the_same_letters(made: Made, world: World) -> None:
    reader = Reader(composed(made).tokenizer, world)
    rng = generator("spelled")
    for text in ["add butter to the list", "turn off the hall light", "coffee"]:
        for _ in range(20):
            ids = reader.spelled(text, rng)
            # A piece that is held comes twice at once; two equal letters have something between them.
            once = [i for n, i in enumerate(ids) if n == 0 or i != ids[n - 1]]
            assert reader._tokenizer.decode(once).replace("~", "").strip() == text


def test_tokens_in_no_order_are_to_be_copied(made: Made, world: World) -> None:
    reader = Reader(composed(made).tokenizer, world)
    for number in range(20):
        ids, responds = reader.noise(generator("noise", number))
        answer = [i for i, response in zip(ids, responds, strict=True) if response]
        begin = ids.index(answer[0])
        assert ids[begin : begin + len(answer) - 1] == answer[:-1]
        assert answer[-1] == reader._tokenizer.eos_token_id


def test_what_is_learnt_is_told(made: Made) -> None:
    assert re.search(r"ears: step 2/2, loss \d.*WER on unseen voices", made.printed)
    assert re.search(r"tongue: step 30/30, loss \d", made.printed)


def test_the_ears_are_a_recogniser_and_an_encoder(made: Made) -> None:
    clip = voices.speak(["set a timer for ten minutes"], "test", voices.unseen_voices())[0]
    assert clip is not None
    heard = Transformers(model=str(made.out / "ears"), device="cpu").transcribe(
        [Clip(audio.store(clip, kind="test"), "en")]
    )
    assert isinstance(heard[0], str)
    speech_lm = composed(made)
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


def test_a_conversation_is_cut_after_its_call(world: World, made: Made) -> None:
    reader = Reader(composed(made).tokenizer, world)
    rng = generator("cut")
    whole: Sample = next(s for s in world.conversations("cut", 20) if len(s.messages) > 3)
    lengths = {len(reader.shortened(whole, rng).messages) for _ in range(60)}
    assert lengths == {3, len(whole.messages)}
    assert np.mean([len(reader.shortened(replace(whole), rng).messages) == 3 for _ in range(200)]) > 0.7

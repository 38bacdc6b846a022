"""Ready audio LLMs, each as a tiny model of its own class."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from pipeline.model import load
from pipeline.model.base import Batch, ModelError, RowError, SpeechLM
from schemas.arrow import SAMPLING_RATE
from schemas.conversation import AUDIO_PLACEHOLDER, Message, ToolCall, ToolSpec
from schemas.sample import Sample
from tests.examples import sound, utterance
from tests.model import tiny_ready

TARGETS = ["q_proj", "v_proj"]
ENCODER_TARGETS = {"granite_speech": ["to_q"]}
SECONDS = (0.31, 1.0, 2.2)


@pytest.fixture(scope="module", params=tiny_ready.FAMILIES)
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family's model as on the hub; the folder has the family's name."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return tiny_ready.FAMILIES[request.param](tmp_path_factory.mktemp("ready") / request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> SpeechLM:
    return load(str(folder))


def talk(seconds: float, *, said: str = "Turn on the lamp.", answer: str = "It is on.", **fields: Any) -> Sample:
    """Two turns; the first is spoken."""
    messages = (
        Message("user", f"{AUDIO_PLACEHOLDER}\nWhat was said?"),
        Message("assistant", answer),
        Message("user", "And then?"),
        Message("assistant", "Nothing more."),
    )
    own = utterance(said, audio=sound(seconds, 200 + 100 * seconds))
    return Sample(id=f"r{seconds}", utterances=(own,), split="train", messages=messages, **fields)


def plain() -> Sample:
    messages = (Message("user", "Who is there?"), Message("assistant", "Only me."))
    return Sample(id="plain", utterances=(), split="train", messages=messages)


def batch_of(model: SpeechLM, *samples: Sample, **options: Any) -> Batch:
    answer = options.pop("answer", True)
    return model.collate([model.encode(sample, answer=answer) for sample in samples], **options)


def states(model: SpeechLM, batch: Batch) -> Any:
    with torch.no_grad():
        return model.states(batch)


def test_positions_are_those_that_the_class_fills(model: SpeechLM) -> None:
    """The classes refuse any other number; short sounds, odd ones, and those beyond one window."""
    for seconds in (0.004, 0.0252, 0.999, 1.0033, 4.0, 4.01, 5.23):
        audio = sound(seconds) if seconds > 0.02 else sound(64 / SAMPLING_RATE)
        sample = talk(seconds, said="")
        sample = Sample(id="one", utterances=(utterance("", audio=audio),), split="train", messages=sample.messages[:2])
        encoded = model.encode(sample)
        own = model.chat.audio_id
        places = [n for n, i in enumerate(encoded.ids) if i == own]
        assert places == list(range(places[0], places[0] + len(places))), "one after the other"
        without = len(model.encode(sample, sounds=False).ids)
        assert without == len(encoded.ids)
        samples = round(audio.seconds * SAMPLING_RATE)
        marks = model.tokens(samples) - len(places)
        assert marks == {"Qwen2Audio": 2, "Gemma3n": 2, "Voxtral": 1}.get(type(model).__name__, 0)
        assert torch.isfinite(states(model, model.collate([encoded]))).all()


@pytest.mark.parametrize("family", ["AudioFlamingo3", "Qwen2Audio"])
def test_ids_and_features_equal_those_of_the_own_processor(family: str, tmp_path: Path) -> None:
    make = {"AudioFlamingo3": tiny_ready.audio_flamingo3, "Qwen2Audio": tiny_ready.qwen2_audio}[family]
    model = load(str(make(tmp_path / "model")))
    processor = getattr(transformers, f"{family}Processor")(
        model.extractor, model.tokenizer, chat_template=model.tokenizer.chat_template
    )
    batch = batch_of(model, talk(1.0), talk(2.2), answer=False, left=True)
    shown = {"AudioFlamingo3": "<sound>\n", "Qwen2Audio": "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\n"}[family]
    messages = [
        {"role": m.role, "content": m.content.replace(f"{AUDIO_PLACEHOLDER}\n", shown)} for m in talk(1.0).messages
    ]
    text = processor.tokenizer.apply_chat_template(messages[:3], tokenize=False, add_generation_prompt=True)
    sounds = [tiny_ready.heard(talk(seconds)) for seconds in (1.0, 2.2)]
    model.tokenizer.padding_side = "left"
    made = processor(text=[text, text], audio=sounds, text_kwargs={"padding": True}, return_tensors="pt")
    assert torch.equal(made["input_ids"], batch.ids)
    assert torch.equal(made["attention_mask"].bool(), batch.mask)
    for name, value in batch.sounds.items():
        assert torch.equal(made[name], value), name


def test_what_is_learnt_is_the_same_heard_and_read(model: SpeechLM) -> None:
    heard, read = model.encode(talk(1.0)), model.encode(talk(1.0), hear=False)
    assert heard.ids[heard.targets].tolist() == read.ids[read.targets].tolist()
    assert heard.ends.sum() == read.ends.sum() == 2
    said = model.tokenizer.decode(heard.ids[heard.targets])
    assert "It is on." in said
    assert "Nothing more." in said
    assert "And then?" not in said
    assert "Turn on the lamp." in model.tokenizer.decode(read.ids)
    assert set(heard.ids[heard.ends]) <= model.chat.stops
    asked = model.encode(talk(1.0), answer=False)
    assert heard.ids[: len(asked.ids)].tolist() == asked.ids.tolist()


def test_states_and_head_give_the_class_s_logits(model: SpeechLM) -> None:
    batch = batch_of(model, *map(talk, SECONDS))
    with torch.no_grad():
        found = model.head()(model.states(batch))
        prompt = model.prompt(batch)
        expected = model.model(**prompt, attention_mask=batch.mask.long(), position_ids=batch.positions).logits
    assert found.std() > 0.1
    torch.testing.assert_close(found[batch.mask], expected[batch.mask], rtol=1e-5, atol=1e-5)


def test_batched_packed_and_single_agree(model: SpeechLM) -> None:
    samples = [talk(0.31), talk(2.2), plain(), talk(1.0)]
    single = [states(model, batch_of(model, sample))[0] for sample in samples]
    batch = batch_of(model, *samples)
    for row, mask, alone in zip(states(model, batch), batch.mask, single, strict=True):
        torch.testing.assert_close(row[mask], alone, rtol=1e-4, atol=2e-5)
    batch = batch_of(model, *samples, left=True)
    for row, mask, alone in zip(states(model, batch), batch.mask, single, strict=True):
        torch.testing.assert_close(row[mask], alone, rtol=1e-4, atol=2e-5)
    packed = batch_of(model, *samples, pack=True)
    assert packed.ids.shape == (1, sum(map(len, single)))
    torch.testing.assert_close(states(model, packed)[0], torch.cat(single), rtol=1e-4, atol=2e-5)


def test_sound_is_heard(model: SpeechLM) -> None:
    one, other = talk(1.0), talk(1.0)
    other = Sample(
        id="other", utterances=(utterance("", audio=sound(1.0, 999.0)),), split="train", messages=other.messages
    )
    assert (states(model, batch_of(model, one)) - states(model, batch_of(model, other))).abs().max() > 1e-3


def test_generation_is_greedy_and_does_not_depend_on_the_batch(model: SpeechLM) -> None:
    samples = [talk(0.31), talk(2.2), plain()]
    made = model.generate(batch_of(model, *samples, answer=False, left=True), most_tokens=6)
    for sample, ids in zip(samples, made, strict=True):
        batch = batch_of(model, sample, answer=False, left=True)
        assert model.generate(batch, most_tokens=6) == [ids]
        first = int(model.head()(states(model, batch)[0, -1]).argmax())
        assert ids[:1] == ([] if first in model.chat.stops else [first])
    assert any(made)


def test_gradients_reach_exactly_the_named_parts(folder: Path) -> None:
    model = load(str(folder))
    model.add_lora(2, 4.0, 0.0, TARGETS)
    model.add_lora(2, 4.0, 0.0, ENCODER_TARGETS.get(folder.name, TARGETS), encoder=True)
    of = {part: dict(model.named(part)) for part in ("adapter", "lora", "encoder_lora", "encoder", "llm")}
    assert all(of.values())
    assert sum(map(len, of.values())) == len({name for part in of.values() for name in part})
    assert all("lora_" in name for part in ("lora", "encoder_lora") for name in of[part])
    model.model.train()
    batch = batch_of(model, talk(0.31), talk(1.0))
    for trained in (["lora"], ["adapter", "encoder_lora"]):
        names = {name for part in trained for name in of[part]}
        for name, parameter in model.model.named_parameters():
            parameter.requires_grad_(name in names)
            parameter.grad = None
        logits = model.head()(model.states(batch)[:, :-1])[batch.targets[:, 1:]]
        torch.nn.functional.cross_entropy(logits.float(), batch.ids[:, 1:][batch.targets[:, 1:]]).backward()
        reached = {name for name, p in model.model.named_parameters() if p.grad is not None and p.grad.any()}
        assert reached <= names
        # Of LoRA only B has a gradient at the beginning; a few of an adapter's weights are not used for sound.
        assert {name for name in names if "lora_B" in name} <= reached
        if "adapter" in trained:
            assert reached & set(of["adapter"])
            model.states(batch_of(model, plain())).sum().backward()  # each weight has a gradient without sound, too
            assert all(p.grad is not None for name, p in of["encoder_lora"].items())


def test_text_alone_is_the_llm_s_own(folder: Path) -> None:
    model = load(str(folder))
    batch = model.collate([model.encode(talk(1.0), hear=False), model.encode(plain(), hear=False)])
    before = states(model, batch)
    with torch.no_grad():
        own = model.model.get_decoder()(
            input_ids=batch.ids, attention_mask=batch.mask.long(), position_ids=batch.positions
        )
        alone = model.head()(own.last_hidden_state)
    assert torch.equal(model.head()(before).detach(), alone)
    model.add_lora(2, 4.0, 0.0, TARGETS)
    assert torch.equal(states(model, batch), before), "LoRA changes nothing at the start"
    assert not model.changed()
    disturb(model)
    assert model.changed()
    assert not torch.equal(states(model, batch), before)
    with model.without_lora():
        assert torch.equal(states(model, batch), before)


def test_text_alone_goes_once_through_the_llm_and_gives_what_listens_a_gradient_of_zero(folder: Path) -> None:
    """Processes that share the LLM's layers gather them the same number of times, whether their rows have sound or not."""
    model = load(str(folder))
    batch = batch_of(model, plain(), plain())
    expected = states(model, batch)
    model.model.requires_grad_(False)
    trained = {name: p.requires_grad_() for part in ("adapter", "encoder") for name, p in model.named(part)}
    times: list[int] = []
    model.blocks()[0].register_forward_hook(lambda *_: times.append(1))
    model.states(batch_of(model, talk(1.0), plain())).square().mean().backward()
    reached = {name for name, p in trained.items() if p.grad is not None}
    model.model.zero_grad()
    found = model.states(batch)
    assert len(times) == 2
    torch.testing.assert_close(found, expected)
    found.square().mean().backward()
    for name in reached:
        grad = trained[name].grad
        assert grad is not None, name
        assert not grad.any(), name


def disturb(model: SpeechLM) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in ("lora", "encoder_lora"):
            for _, parameter in model.named(part):
                parameter.normal_(0, 0.3, generator=generator)


def test_saved_loaded_and_merged(folder: Path, tmp_path: Path) -> None:
    model = load(str(folder))
    batch = batch_of(model, talk(1.0), talk(2.2))
    base = states(model, batch)
    model.add_lora(2, 4.0, 0.0, TARGETS)
    model.add_lora(2, 4.0, 0.0, ENCODER_TARGETS.get(folder.name, TARGETS), encoder=True)
    disturb(model)
    tuned = states(model, batch)
    model.save(tmp_path / "saved")
    again = load(str(tmp_path / "saved"))
    assert torch.equal(states(again, batch_of(again, talk(1.0), talk(2.2))), tuned)
    assert again.tokenizer.chat_template == model.tokenizer.chat_template
    again.merge()
    torch.testing.assert_close(states(again, batch), tuned, rtol=1e-4, atol=1e-4)
    assert not list(again.named("lora"))
    (tmp_path / "saved" / "lora").rename(tmp_path / "apart")
    assert torch.equal(states(load(str(tmp_path / "saved")), batch), base), "the weights beside LoRA are as they were"


def test_errors(model: SpeechLM) -> None:
    with pytest.raises(ModelError, match=r"no linear module 'q_porj'.*Did you mean 'q_proj'"):
        model.add_lora(2, 4.0, 0.0, ["q_porj"])
    long = talk(1.0)
    longer = Sample(
        id="long",
        utterances=long.utterances,
        split="train",
        messages=(*long.messages[:3], Message("assistant", "and so on " * 2000)),
    )
    with pytest.raises(RowError, match=r"row long has .* positions .* the model allows 4096"):
        model.encode(longer)


def test_audio_flamingo_hears_one_sound_a_turn_before_its_text(tmp_path: Path) -> None:
    model = load(str(tiny_ready.audio_flamingo3(tmp_path / "model")))
    sample = talk(1.0)
    late = Message("user", f"Listen: {AUDIO_PLACEHOLDER} What is it?")
    said = model.tokenizer.decode(
        model.encode(Sample("a", sample.utterances, "train", messages=(late, *sample.messages[1:]))).ids
    )
    assert "<sound>Listen:  What is it?" in said
    two = Message("user", AUDIO_PLACEHOLDER * 2)
    with pytest.raises(RowError, match="row b has a turn with 2 sounds"):
        model.encode(Sample("b", sample.utterances * 2, "train", messages=(two, *sample.messages[1:])))


def test_granite_s_own_lora_is_what_is_trained(tmp_path: Path) -> None:
    folder = tiny_ready.granite_speech(tmp_path / "model", own_lora=True)
    model = load(str(folder))
    batch = batch_of(model, talk(1.0))
    own = transformers.GraniteSpeechForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():
        given = {"input_features": batch.sounds["input_features"], "input_ids": batch.ids}
        expected = own.model(**given, attention_mask=batch.mask.long()).last_hidden_state
    assert torch.allclose(states(model, batch), expected, atol=1e-5)
    with pytest.raises(ModelError, match=r"comes with LoRA.*rank: 3, alpha: 6.0, targets: \[q_proj, v_proj\]"):
        model.add_lora(16, 32.0, 0.0, TARGETS)
    model.add_lora(3, 6.0, 0.0, TARGETS)
    with model.without_lora():
        assert not torch.allclose(states(model, batch), expected, atol=1e-3)
    model.save(tmp_path / "saved")
    assert torch.equal(states(load(str(tmp_path / "saved")), batch), states(model, batch))


def test_voxtral_s_calls_have_ids_of_nine_characters(tmp_path: Path) -> None:
    model = load(str(tiny_ready.voxtral(tmp_path / "model")))
    sample = talk(1.0)
    call = ToolCall("call_0", "lamp_on", '{"room": "hall"}')
    messages = (sample.messages[0], Message("assistant", "", (call,)))
    tools = (ToolSpec("lamp_on", "Turns it on.", '{"type": "object", "properties": {"room": {"type": "string"}}}'),)
    row = Sample("c", sample.utterances, "train", messages=messages, tools=tools)
    heard, read = model.encode(row), model.encode(row, hear=False)
    said = model.tokenizer.decode(heard.ids[heard.targets])
    assert (
        said
        == model.tokenizer.decode(read.ids[read.targets])
        == '[TOOL_CALLS]lamp_on[CALL_ID]000000001[ARGS]{"room": "hall"}</s>'
    )


def test_a_package_that_a_ready_model_needs_is_named(tmp_path: Path) -> None:
    """Its weights are whole; its tokenizer is Mistral's own."""
    if importlib.util.find_spec("mistral_common") is not None:
        pytest.skip("mistral-common is installed")
    folder = tiny_ready.voxtral(tmp_path / "model")
    (folder / "tekken.json").write_text('{"config": {"version": "v7", "pattern": "."}, "vocab": []}')
    with pytest.raises(ModelError, match=r".*mistral-common.*pip install 'earwitness\[voxtral\]'"):
        load(str(folder))


def test_gemma_s_features_are_those_of_a_batch_with_a_longer_sound(tmp_path: Path) -> None:
    model = load(str(tiny_ready.gemma3n(tmp_path / "model")))
    short, long = tiny_ready.heard(talk(0.31)), tiny_ready.heard(talk(2.2))
    made = model.features([short])
    beside = model.extractor([short, long], return_tensors="np")
    frames = made["input_features"].shape[1]
    assert np.array_equal(made["input_features"][0], beside["input_features"][0][:frames])
    assert np.array_equal(made["input_features_mask"][0], beside["input_features_mask"][0][:frames])

"""AudioLM: one row as in a batch, cached as uncached, packed as unpacked, and text as without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from msgspec.structs import replace
from transformers import AutoModelForCausalLM

from pipeline.model import compose, load, tiny
from pipeline.model.base import Encoded, ModelError, RowError
from pipeline.model.resample import resample
from pipeline.model.speech_lm import Composed
from schemas.training import ModelSpec
from tests.model.rows import called, heard

torch.set_num_threads(1)
NEAR = {"rtol": 1e-4, "atol": 1e-4}
Make = Callable[..., Composed]


@pytest.fixture(scope="module")
def make(tiny_llm: Path, tiny_whisper: Path) -> Make:
    def made(kind: str = "stack", encoders: tuple[Path, ...] = (tiny_whisper,), **options: Any) -> Composed:
        attention = options.pop("attention", "sdpa")
        spec = ModelSpec(
            encoders=[str(e) for e in encoders],
            llm=str(tiny_llm),
            adapter={"kind": kind} | options,
            attention=attention,
        )
        speech = compose(spec)
        assert isinstance(speech, Composed)
        return speech

    return made


@pytest.fixture(scope="module")
def lm(make: Make) -> Composed:
    return make()


def rows(lm: Composed, **how: Any) -> list[Encoded]:
    """Rows of different lengths, of no audio, one and several."""
    samples = [heard(1.0), heard(question="Nothing is heard?"), called(2.2), heard(0.02, 3.1, 0.7)]
    return [lm.encode(sample, **how) for sample in samples]


@torch.no_grad()
def test_a_row_is_in_a_batch_what_it_is_alone(lm: Composed) -> None:
    examples = rows(lm)
    for left in (False, True):
        batch = lm.collate(examples, left=left)
        together = lm.states(batch)
        for number, example in enumerate(examples):
            alone = lm.states(lm.collate([example]))[0]
            torch.testing.assert_close(together[number][batch.mask[number]], alone, **NEAR)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_packed_rows_do_not_see_each_other(make: Make, attention: str) -> None:
    lm = make(attention=attention)
    examples = rows(lm)
    apart, packed = lm.collate(examples), lm.collate(examples, pack=True)
    assert packed.ids.shape == (1, int(apart.mask.sum()))
    assert packed.mask.all()
    torch.testing.assert_close(lm.states(packed)[packed.mask], lm.states(apart)[apart.mask], **NEAR)
    assert (packed.ids[packed.targets] == apart.ids[apart.targets]).all()


@torch.no_grad()
def test_text_alone_gives_the_llms_own_logits_bit_for_bit(make: Make, tiny_llm: Path) -> None:
    lm = make()
    lm.add_lora(4, 8.0, 0.0, ["q_proj", "down_proj"])
    for name, parameter in lm.named("lora"):
        if "lora_B" in name:
            parameter.fill_(0.1)
    base = AutoModelForCausalLM.from_pretrained(tiny_llm)
    batch = lm.collate([lm.encode(heard()), lm.encode(heard(question="And what is this?"))])
    asked = {"attention_mask": batch.mask, "position_ids": batch.positions, "use_cache": False}
    expected = base(input_ids=batch.ids, **asked).logits
    with lm.without_lora():
        assert torch.equal(lm.model(input_ids=batch.ids, **asked).logits, expected)
        assert torch.equal(lm.head()(lm.states(batch)), expected)
    assert not torch.equal(lm.head()(lm.states(batch)), expected)


def test_cached_generation_is_uncached_generation_and_alone_as_in_a_batch(lm: Composed) -> None:
    examples = rows(lm, answer=False)
    batch = lm.collate(examples, left=True)
    cached = lm.generate(batch, most_tokens=12)
    assert cached == lm.generate(batch, most_tokens=12, use_cache=False)
    assert cached == [lm.generate(lm.collate([e], left=True), most_tokens=12)[0] for e in examples]
    assert len({tuple(ids) for ids in cached}) == len(examples)
    assert all(max(ids, default=0) < 512 for ids in cached)  # the audio token is 512


def test_beams_hear_the_sounds_of_their_rows(lm: Composed) -> None:
    examples = rows(lm, answer=False)
    batch = lm.collate(examples, left=True)
    together = lm.generate(batch, most_tokens=6, num_beams=3)
    assert together == [lm.generate(lm.collate([e], left=True), most_tokens=6, num_beams=3)[0] for e in examples]


@torch.no_grad()
def test_long_sound_goes_in_pieces_and_takes_what_is_said(lm: Composed) -> None:
    example = lm.encode(heard(33.3, 1.0))
    assert lm.pieces(round(33.3 * 16000)) == [480_000, 52_800]
    assert (example.ids == 512).sum() == lm.tokens(round(33.3 * 16000)) + lm.tokens(16_000) == 188 + 21 + 7
    batch = lm.collate([example])
    assert batch.sounds["lengths"].tolist() == [480_000, 52_800, 16_000]
    assert lm.states(batch).isfinite().all()
    assert lm.encode(heard(0.001)).sounds[0].size == 16
    assert lm.states(lm.collate([lm.encode(heard(0.001))])).isfinite().all()


@pytest.mark.parametrize("weighted", [False, True])
@torch.no_grad()
def test_what_the_encoders_heard_may_stand_for_the_sound(
    make: Make, tmp_path_factory: pytest.TempPathFactory, tiny_whisper: Path, weighted: bool
) -> None:
    other = tiny.encoder(tmp_path_factory.mktemp("bases") / "wavlm", "wavlm", hidden=32, layers=3)
    for encoders in ((tiny_whisper,), (tiny_whisper, other)):
        lm = make("conv", encoders, weighted_layers=weighted)
        batch = lm.collate(rows(lm))
        heard_frames = lm.listen(batch.sounds)
        depth = (3,) if weighted else ()
        pieces = len(batch.sounds["lengths"])
        assert heard_frames["frames"].shape[:-2] == (*depth, pieces)
        if len(encoders) == 2 and not weighted:
            assert heard_frames["frames"].shape[-1] == 64 + 32
        from_frames = type(batch)(
            **{**{n: getattr(batch, n) for n in batch.__dataclass_fields__}, "sounds": heard_frames}
        )
        torch.testing.assert_close(lm.states(from_frames), lm.states(batch), rtol=0, atol=0)
        alone = lm.states(lm.collate([lm.encode(heard(0.02, 3.1, 0.7))]))[0]  # as it is without the others
        torch.testing.assert_close(lm.states(batch)[3][batch.mask[3]], alone, **NEAR)


def test_frames_are_resampled_by_overlap() -> None:
    frames = torch.tensor([[1.0, 2.0, 3.0, 9.0], [1.0, 2.0, 3.0, 4.0]])[..., None]  # the first has 3
    made = resample(frames, torch.tensor([3, 4]), torch.tensor([2, 6]), 6)[..., 0]
    expected = [[4 / 3, 8 / 3, 0, 0, 0, 0], [1, 1.5, 2, 3, 3.5, 4]]
    torch.testing.assert_close(made, torch.tensor(expected))
    same = resample(frames, torch.tensor([3, 4]), torch.tensor([3, 4]), 4)
    assert torch.equal(same[1], frames[1])


@pytest.mark.parametrize("trained", [["adapter"], ["adapter", "encoder_lora"], ["lora"]])
def test_without_sound_what_listens_still_has_a_gradient_of_zero(make: Make, trained: list[str]) -> None:
    lm = make("mlp", weighted_layers=True)
    lm.add_lora(2, 4.0, 0.0, ["q_proj"])
    lm.add_lora(2, 4.0, 0.0, ["q_proj"], encoder=True)
    lm.model.requires_grad_(False)
    parameters = {name: p.requires_grad_() for part in trained for name, p in lm.named(part)}
    lm.model.train()
    example = lm.encode(heard())
    lm.states(lm.collate([example, example])).square().mean().backward()
    assert all(p.grad is not None for p in parameters.values())
    silent = [p.grad for name, p in parameters.items() if not name.startswith("language_model")]
    assert all(not grad.any() for grad in silent)
    lm.model.zero_grad()
    lm.states(lm.collate([example, lm.encode(heard(1.0))])).square().mean().backward()
    assert any(bool(p.grad.any()) for p in parameters.values())


def test_gradient_checkpointing_changes_no_gradient(make: Make) -> None:
    found = []
    for checkpointing in (False, True):
        lm = make()
        for _, parameter in lm.named("adapter"):
            parameter.requires_grad_()
        if checkpointing:
            lm.model.gradient_checkpointing_enable()
        lm.model.train()
        lm.states(lm.collate(rows(lm))).square().mean().backward()
        found.append([p.grad for _, p in lm.named("adapter")])
    torch.testing.assert_close(found[0], found[1])


@torch.no_grad()
def test_the_adapter_depends_on_the_seed_alone(make: Make, tiny_llm: Path, tiny_whisper: Path) -> None:
    spec = ModelSpec(encoders=[str(tiny_whisper)], llm=str(tiny_llm))
    found = []
    for seed, dtype in ((1, "float32"), (1, "float32"), (2, "float32"), (1, "bfloat16")):
        torch.rand(3)
        found.append(compose(spec, seed=seed, dtype=dtype))
    weights = [torch.cat([p.flatten() for _, p in lm.named("adapter")]) for lm in found]
    assert torch.equal(weights[0], weights[1])
    assert not torch.allclose(weights[0], weights[2])
    torch.testing.assert_close(weights[0], weights[3], rtol=1e-2, atol=1e-6)  # in fp32, too
    second = found[3]
    assert next(second.named("llm"))[1].dtype == next(second.named("encoder"))[1].dtype == torch.bfloat16
    batch = second.collate(rows(second))  # type: ignore[arg-type]
    assert second.states(batch).dtype == torch.bfloat16
    assert second.states(batch).isfinite().all()


def test_parts_are_all_there_and_none_twice(lm: Composed) -> None:
    named = {part: dict(lm.named(part)) for part in ("adapter", "lora", "encoder_lora", "encoder", "llm")}
    assert not named["lora"]
    assert not named["encoder_lora"]
    assert sum(map(len, named.values())) == len(dict(lm.model.named_parameters()))
    assert all(name.startswith("encoders.0.") for name in named["encoder"])
    assert len(lm.blocks()) == 2


def test_what_is_wrong_is_said(make: Make, lm: Composed, tiny_llm: Path, tiny_whisper: Path, tmp_path: Path) -> None:
    batch = lm.collate([lm.encode(heard(1.0), sounds=False)])
    with pytest.raises(ModelError, match="there are 7 audio tokens, and no sound for them"):
        lm.states(batch)
    with pytest.raises(ModelError, match="there are 7 audio tokens, but sound for 13"):
        lm.model(input_ids=batch.ids, **lm.collate([lm.encode(heard(2.0))]).sounds)
    sample = heard(1.0)
    (said,) = sample.utterances
    assert said.audio is not None
    cases = {
        "row c/1 has no audio for its utterance 1": replace(said, audio=None),
        "audio 1 of row c/1 does not decode": replace(said, audio=replace(said.audio, flac=said.audio.flac[:50])),
        "has 16000 samples, its row says 32000": replace(said, audio=replace(said.audio, seconds=2.0)),
    }
    for message, wrong in cases.items():
        with pytest.raises(RowError, match=message):
            lm.encode(replace(sample, utterances=(wrong,)))
    with pytest.raises(RowError, match="the model allows 4096"):
        lm.encode(heard(*[25.0] * 28))
    with pytest.raises(ModelError, match=f"the model '{tmp_path}' cannot be loaded"):
        compose(ModelSpec(encoders=[str(tiny_whisper)], llm=str(tmp_path)))
    clap = tiny.encoder(tmp_path / "clap", "clap")
    with pytest.raises(ModelError, match="is a clap_audio_model, no causal LM"):
        compose(ModelSpec(encoders=[str(tiny_whisper)], llm=str(clap)))
    with pytest.raises(ModelError, match="has no chat template"):
        compose(ModelSpec(encoders=[str(tiny_whisper)], llm=str(tiny_whisper)))


@pytest.mark.parametrize(("kind", "attention"), [("gemma2", "eager"), ("cohere", "sdpa"), ("granite", "sdpa")])
@torch.no_grad()
def test_heads_that_scale_or_cap_their_logits_are_theirs(
    make: Make, tiny_whisper: Path, tmp_path: Path, kind: str, attention: str
) -> None:
    base = tiny.llm(tmp_path / kind, ["some words to begin with"], vocabulary=300, kind=kind)
    lm = compose(
        ModelSpec(encoders=[str(tiny_whisper)], llm=str(base), adapter={"kind": "pool"}, attention=attention)  # type: ignore[arg-type]
    )
    batch = lm.collate([lm.encode(heard())])
    logits = AutoModelForCausalLM.from_pretrained(base, attn_implementation=attention)(input_ids=batch.ids).logits
    assert torch.equal(lm.head()(lm.states(batch)), logits)


def test_an_llm_that_cannot_pack_says_so(tiny_whisper: Path, tmp_path: Path) -> None:
    base = tiny.llm(tmp_path / "opt", ["some words to begin with"], vocabulary=300, kind="opt")
    lm = compose(ModelSpec(encoders=[str(tiny_whisper)], llm=str(base), adapter={"kind": "pool"}))
    example = lm.encode(heard())
    with pytest.raises(ModelError, match="opt does not keep packed examples apart: set `packing: false`"):
        lm.collate([example, example], pack=True)
    base = tiny.llm(tmp_path / "gemma2", ["some words"], vocabulary=300, kind="gemma2")
    with pytest.raises(ModelError, match="`attention: eager`"):
        compose(ModelSpec(encoders=[str(tiny_whisper)], llm=str(base)))


def test_a_folder_that_is_not_there_is_not_asked_of_the_hub(tmp_path: Path) -> None:
    for name in (str(tmp_path / "model"), "./model", "a/b/c"):
        with pytest.raises(ModelError, match="there is no folder"):
            load(name)

"""What encoders hear: transformers' figures, for a clip in a batch as for one alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from pipeline.model import features
from pipeline.model.base import ModelError
from pipeline.model.encoders import base
from tests.model.encoders.conftest import batch, sound

EXTRACTORS = {
    "whisper": transformers.WhisperFeatureExtractor,
    "wav2vec2-bert": transformers.SeamlessM4TFeatureExtractor,
    "parakeet_encoder": transformers.ParakeetFeatureExtractor,
    "audio-spectrogram-transformer": transformers.ASTFeatureExtractor,
    "clap_audio_model": transformers.ClapFeatureExtractor,
}


def extracted(encoder, clip):
    """What transformers' feature extractor makes of one clip."""
    kind = EXTRACTORS.get(encoder.config.model_type, transformers.Wav2Vec2FeatureExtractor)
    extractor = kind(**encoder.extractor_config)
    if kind is transformers.ClapFeatureExtractor:
        clip = features.at_48_khz(clip[None])[0]
    made = dict(extractor(clip.numpy(), sampling_rate=encoder.heard_at, return_tensors="pt"))
    made.pop("is_longer", None)
    if kind is transformers.ClapFeatureExtractor:  # four times the same, for models with fusion
        made["input_features"] = made["input_features"][:, :1].float()
    return made


def reference(encoder):
    """transformers' own model with the same weights."""
    model = type(encoder.module)(copy.deepcopy(encoder.config)).eval()
    model.load_state_dict(encoder.module.state_dict())
    return model


def near(one, other, tolerance):
    torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


def test_features_are_those_of_transformers(encoder):
    lengths = (100_003, 46_000, 32_320)
    ours = encoder.features(*batch(encoder, *lengths))
    for row, length in zip(ours, lengths, strict=True):
        (theirs,) = [v[0].float() for k, v in extracted(encoder, batch(encoder, length)[0][0]).items() if "input" in k]
        if encoder.config.model_type == "clap_audio_model":
            theirs = theirs[0]
        # Behind a clip both have what its silence gives, as far as both go: Whisper's and AST's go on to 30 and 10 s.
        axis = 1 if encoder.config.model_type == "whisper" else 0
        size = min(row.shape[axis], theirs.shape[axis])
        if encoder.config.model_type == "wav2vec2-bert":  # an odd last frame is beside one that is masked
            size = encoder.frames(length)
        row, theirs = row.narrow(axis, 0, size), theirs.narrow(axis, 0, size)
        if encoder.config.model_type == "clap_audio_model":  # decibels; above 8 kHz there are rounding errors only
            near(row, theirs, 0.5)
            row, theirs = row.clamp(min=-60), theirs.clamp(min=-60)
        near(row, theirs, 5e-3 if encoder.config.model_type == "clap_audio_model" else 1e-3)


def test_states_are_those_of_transformers(encoder):
    whole = encoder.config.model_type in ("whisper", "audio-spectrogram-transformer")  # elsewhere shorter clips, too
    lengths = (encoder.window,) if whole else (64_321, 24_000, 16_161)
    with torch.no_grad():
        ours, counts = encoder(*batch(encoder, *lengths), every_layer=True)
        assert ours.shape == (encoder.depth, len(lengths), encoder.frames(max(lengths)), encoder.width)
        for row, length in enumerate(lengths):
            given = extracted(encoder, batch(encoder, length)[0][0])
            theirs = reference(encoder)(**given, output_hidden_states=True)
            last, states = theirs.last_hidden_state, theirs.hidden_states
            mine = ours[:, row, : counts[row]]
            if encoder.config.model_type == "audio-spectrogram-transformer":
                last, *states = [s[:, 2:].unflatten(1, (12, -1)).mean(1) for s in (last, *states)]
            if encoder.config.model_type == "clap_audio_model":
                last, states = last.mean(2).transpose(1, 2), ()
            near(mine[-1], last[0, : counts[row]], 5e-4)
            for one, other in zip(mine[:-1], states, strict=False):
                near(one, other[0, : counts[row]], 5e-4)


def test_a_clip_in_a_batch_is_a_clip_alone(encoder):
    lengths = (50_000, 1, 333, 399, 641, 2799, 16_000, 31_999)
    with torch.no_grad():
        together, counts = encoder(*batch(encoder, *lengths))
        for row, length in enumerate(lengths):
            alone, count = encoder(*batch(encoder, length))
            assert count.item() == counts[row] == alone.shape[1] == encoder.frames(length) >= 1
            assert alone.isfinite().all()
            if length > 1:  # standardising one sample's bands makes noise of rounding
                near(together[row, : counts[row]], alone[0], 5e-4)
            assert not together[row, counts[row] :].any()


def test_frames_are_counted_exactly(encoder):
    lengths = [*range(1, 3000), *np.random.default_rng(0).integers(3000, encoder.window, 3000), encoder.window]
    counts = encoder.counts(torch.tensor(lengths))
    assert counts.tolist() == [encoder.frames(int(n)) for n in lengths]
    assert counts.min() == 1
    assert encoder.frames(encoder.window) == pytest.approx(encoder.window / 16_000 * encoder.rate, abs=2)
    for length in range(1, 2400, 171):
        assert encoder(*batch(encoder, length))[0].shape[1] == encoder.frames(length)


def test_longer_sound_is_refused(encoder):
    with pytest.raises(ModelError, match="cut longer sound into chunks"):
        encoder(torch.zeros(1, encoder.window + 1), torch.tensor([encoder.window + 1]))


def test_gradients_reach_what_is_trained(encoder):
    encoder = base.from_config(encoder.config, encoder.extractor_config)
    encoder.requires_grad_(False).train()
    clips = batch(encoder, 16_000, 9000)
    frozen, _ = encoder(*clips)
    assert not frozen.requires_grad
    assert torch.equal(frozen, encoder(*clips)[0])  # frozen, it drops nothing

    encoder.requires_grad_(True).train()
    assert encoder.module.training
    assert not any(m.training for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    heard, _ = encoder(*clips)
    (heard * torch.randn(heard.shape)).sum().backward()
    missed = [name for name, p in encoder.named_parameters() if p.grad is None]
    assert not missed


def test_layers_are_not_dropped_at_random(encoder):
    assert not getattr(encoder.config, "layerdrop", 0.0)
    assert not getattr(encoder.config, "encoder_layerdrop", 0.0)


def test_half_precision_hears_about_the_same(encoder):
    half = base.from_config(encoder.config, encoder.extractor_config)
    half.load_state_dict(encoder.state_dict())
    clips = batch(encoder, 20_000, 9000)
    with torch.no_grad():
        heard, _ = half.to(torch.bfloat16)(*clips)
        full, _ = encoder(*clips)
    assert heard.dtype == torch.bfloat16
    assert (heard.float() - full).norm() < 0.1 * full.norm()


def test_wavlm_attends_through_its_linear_modules(made):
    """Else LoRA on them would do nothing: transformers reads their weights past them."""
    attention = made["wavlm"].module.encoder.layers[0].attention
    called = []
    hooks = [
        getattr(attention, name).register_forward_hook(lambda *_: called.append(1))
        for name in ("q_proj", "k_proj", "v_proj", "out_proj")
    ]
    made["wavlm"](*batch(made["wavlm"], 8000))
    for hook in hooks:
        hook.remove()
    assert len(called) == 4


def test_16_khz_becomes_48():
    tones = torch.tensor([[50.0], [1000.0], [6000.0]], dtype=torch.float64)
    low, high = (torch.sin(2 * torch.pi * tones * torch.arange(rate) / rate).float() for rate in (16_000, 48_000))
    near(features.at_48_khz(low)[:, 300:-300], high[:, 300:-300], 1e-5)


def test_silence_is_heard(encoder):
    for length in (1, 16_000):
        assert encoder(torch.zeros(1, length), torch.tensor([length]))[0].isfinite().all()


def test_the_sound_is_not_changed(encoder):
    given = sound()[None, :20_000].clone()
    encoder(given, torch.tensor([15_000]))
    assert torch.equal(given, sound()[None, :20_000])

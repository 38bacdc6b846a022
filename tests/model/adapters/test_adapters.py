"""Every adapter: exact counts, masks, scale, and what transformers' own projector makes of the same weights."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers.models.audioflamingo3 import modeling_audioflamingo3 as flamingo

from pipeline import plugins
from pipeline.model import tiny
from pipeline.model.adapters import base
from pipeline.model.base import ModelError
from pipeline.model.encoders import base as encoders
from tests.model.encoders.conftest import batch

TOKENS = {"conv": 375, "stack": 188, "mlp": 375, "qformer": 88, "pool": 750}  # of 30 s at 50 Hz
SMALL = {"qformer": {"width": 32, "heads": 4}}
KINDS = [{"kind": kind} | SMALL.get(kind, {}) for kind in TOKENS]
OTHERS = [
    {"kind": "conv", "strides": [1, 1]},
    {"kind": "conv", "strides": [2, 3, 1], "kernel": 5, "width": 24},
    {"kind": "stack", "factor": 2, "width": 12},
    {"kind": "mlp", "factor": 3, "width": 10},
    {"kind": "qformer", "window": 4, "queries": 3, "layers": 3, "width": 16, "heads": 2},
    {"kind": "pool", "factor": 3},
]
ALL = [*KINDS, *OTHERS]


@pytest.fixture(autouse=True)
def _seed():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def test_these_are_all_adapters():
    assert plugins.names("model.adapters") == sorted(TOKENS)


@pytest.mark.parametrize("spec", KINDS, ids=list(TOKENS))
def test_thirty_seconds_take_so_many_tokens(spec):
    adapter = base.make(spec, 16, 8)
    assert adapter.tokens(1500) == TOKENS[spec["kind"]]
    tokens, counts = adapter(torch.randn(1, 1500, 16), torch.tensor([1500]))
    assert tokens.shape == (1, TOKENS[spec["kind"]], 8)
    assert counts.tolist() == [TOKENS[spec["kind"]]]


@pytest.mark.parametrize("spec", ALL, ids=str)
def test_tokens_are_counted_exactly(spec):
    if spec["kind"] == "qformer":
        spec = spec | {"layers": 1, "width": 2, "heads": 1}  # else it takes half a minute
    adapter = base.make(spec, 2, 2).requires_grad_(False)
    for length in range(1, 1601):
        tokens, counts = adapter(torch.zeros(1, length, 2), torch.tensor([length]))
        assert tokens.shape[1] == counts.item() == adapter.tokens(length) >= 1


@pytest.mark.parametrize("spec", ALL, ids=str)
def test_a_sound_in_a_batch_is_a_sound_alone(spec):
    adapter = base.make(spec, 16, 8)
    lengths = torch.tensor([120, 119, 67, 33, 18, 17, 16, 3, 2, 1])
    frames = 1000 * torch.randn(len(lengths), 120, 16)  # in the padding, too
    together, counts = adapter(frames, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, count = adapter(frames[row : row + 1, :length], lengths[row : row + 1])
        assert alone.shape[1] == count.item() == counts[row]
        torch.testing.assert_close(together[row, : counts[row]], alone[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("spec", KINDS, ids=list(TOKENS))
@pytest.mark.parametrize("size", [0.1, 1.0, 300.0])
def test_a_new_one_speaks_as_loud_as_it_is_told(spec, size):
    adapter = base.make(spec, 64, 96)
    frames, lengths = size * torch.randn(4, 300, 64), torch.full((4,), 300)
    assert adapter(frames, lengths)[0].square().mean().sqrt().item() == pytest.approx(base.SCALE, rel=0.25)
    adapter.set_scale(1.5)
    assert adapter(frames, lengths)[0].square().mean().sqrt().item() == pytest.approx(1.5, rel=0.25)


@pytest.mark.parametrize("spec", KINDS, ids=list(TOKENS))
def test_every_weight_learns(spec):
    adapter = base.make(spec | {"weighted_layers": True}, 16, 8, [3])
    layers, lengths = torch.randn(3, 2, 40, 16), torch.tensor([40, 21])
    tokens, _ = adapter(adapter.mix(layers), lengths)
    (tokens * torch.randn(tokens.shape))[0].sum().backward()
    still = [name for name, p in adapter.named_parameters() if p.grad is None]
    assert not still
    assert adapter.layer_weights[0].grad.abs().max() > 0


def test_layers_weigh_the_same_at_first():
    adapter = base.make({"kind": "mlp", "weighted_layers": True}, 10, 4, [5, 3])
    for number, depth in enumerate((5, 3)):
        layers = torch.randn(depth, 2, 7, 5)
        torch.testing.assert_close(adapter.mix(layers, number), layers.mean(0))
    with torch.no_grad():
        adapter.layer_weights[1].copy_(torch.tensor([0.0, 50.0, 0.0]))
    torch.testing.assert_close(adapter.mix(layers, 1), layers[1])
    assert "layer_weights.1" in adapter.state_dict()


def test_pool_over_whisper_is_audio_flamingo_3(tmp_path):
    """Encoder, norm and projector, by names, biases and activation: what is exported computes the same."""
    tiny.encoder(tmp_path, "whisper", hidden=32)
    encoder = encoders.load(str(tmp_path))
    torch.nn.init.normal_(encoder.module.layer_norm.weight, 1.0, 0.3)
    torch.nn.init.normal_(encoder.module.layer_norm.bias, 0.0, 0.3)
    adapter = base.make({"kind": "pool"}, 32, 24)
    adapter.adopt([encoder])
    adapter.adopt([encoder])  # again, as when weights are loaded anew

    config = transformers.AudioFlamingo3EncoderConfig(
        num_mel_bins=80, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, hidden_size=32
    )
    tower = flamingo.AudioFlamingo3Encoder(config).eval()
    own = {f"layer_norm.{name}": tensor for name, tensor in adapter.norm.state_dict().items()}
    tower.load_state_dict(encoder.module.state_dict() | own)
    widths = SimpleNamespace(audio_config=config, text_config=SimpleNamespace(hidden_size=24))
    projector = flamingo.AudioFlamingo3MultiModalProjector(
        SimpleNamespace(**vars(widths), projector_bias=True, projector_hidden_act="gelu")
    )
    projector.load_state_dict({k: v for k, v in adapter.state_dict().items() if k.startswith("linear_")})

    lengths = (480_000, 48_000, 20_001, 12_345)
    clips = batch(encoder, *lengths)
    extractor = transformers.WhisperFeatureExtractor()
    given = extractor(
        [clip[:length].numpy() for clip, length in zip(clips[0], lengths, strict=True)],
        sampling_rate=16_000,
        return_tensors="pt",
        return_attention_mask=True,
    )
    with torch.no_grad():
        mine, counts = adapter(*encoder(*clips))
        theirs = projector(tower(given.input_features, input_features_mask=given.attention_mask).last_hidden_state)
    _, expected = tower._get_feat_extract_output_lengths(given.attention_mask.sum(-1))
    assert counts.tolist() == expected.tolist()
    for row, count in enumerate(counts):
        torch.testing.assert_close(mine[row, :count], theirs[row, :count], rtol=0, atol=2e-6)


def test_two_encoders_keep_their_norms(tmp_path):
    tiny.encoder(tmp_path, "whisper", hidden=32)
    pair = [encoders.load(str(tmp_path)) for _ in range(2)]
    adapter = base.make({"kind": "pool"}, 64, 8)
    adapter.adopt(pair)
    assert all("module.layer_norm.weight" in encoder.state_dict() for encoder in pair)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "needs a `kind`: one of conv, mlp, pool, qformer, stack"),
        ({"kind": "conv", "stride": [2]}, "Did you mean 'strides'.*Its options are: .*kernel"),
        ({"kind": "conv", "strides": [0]}, r"strides\.0"),
        ({"kind": "conv", "strides": []}, "strides"),
        ({"kind": "conv", "kernel": 2}, "even"),
        ({"kind": "stack", "width": 7}, "odd"),
        ({"kind": "qformer", "width": 10, "heads": 4}, "no multiple"),
    ],
)
def test_wrong_options_are_named(spec, message):
    with pytest.raises(ModelError, match=message):
        base.make(spec, 8, 8)


def test_an_unknown_kind_names_the_known_ones():
    with pytest.raises(plugins.UnknownPlugin, match="Did you mean 'qformer'"):
        base.make({"kind": "qfromer"}, 8, 8)

"""Where encoders come from: folders of their own, and of whole models."""

from __future__ import annotations

import json
import shutil

import pytest
import safetensors.torch
import torch
import transformers

from pipeline.model import tiny
from pipeline.model.base import ModelError
from pipeline.model.encoders import base
from tests.model.encoders.conftest import batch

WHOLE = {
    "whisper": ("WhisperForConditionalGeneration", "model.encoder"),
    "wav2vec2": ("Wav2Vec2ForCTC", "wav2vec2"),
    "hubert": ("HubertForCTC", "hubert"),
    "wavlm": ("WavLMForXVector", "wavlm"),
    "wav2vec2_bert": ("Wav2Vec2BertForCTC", "wav2vec2_bert"),
    "parakeet": ("ParakeetForCTC", "encoder"),
    "ast": ("ASTForAudioClassification", "audio_spectrogram_transformer"),
    "clap": ("ClapModel", "audio_model"),
}


def whole(kind, folder, encoder):
    """A whole model with an encoder of this kind, saved with its feature extractor."""
    config = transformers.AutoConfig.from_pretrained(encoder)
    if kind == "parakeet":
        config = transformers.ParakeetCTCConfig(encoder_config=config, vocab_size=8, pad_token_id=7)
    elif kind == "clap":
        small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        text = transformers.ClapTextConfig(**small, vocab_size=8, projection_dim=32)
        config = transformers.ClapConfig(text_config=text.to_dict(), audio_config=config.to_dict(), projection_dim=32)
    else:
        config.vocab_size = 64
    name, path = WHOLE[kind]
    model = getattr(transformers, name)(config)
    model.save_pretrained(folder)
    shutil.copy(encoder / "preprocessor_config.json", folder)
    return model.get_submodule(path)


@pytest.mark.parametrize("kind", tiny.ENCODERS)
def test_of_a_whole_model_only_the_encoder_is_taken(kind, folders, tmp_path):
    inside = whole(kind, tmp_path, folders / kind)
    loaded = base.load(str(tmp_path))
    weights = loaded.module.state_dict()
    assert weights
    for name, tensor in weights.items():
        assert torch.equal(tensor, inside.state_dict()[name]), name
    left_out = {"masked_spec_embed"}  # of pretraining
    assert set(inside.state_dict()) - set(weights) <= left_out


def test_voxtrals_encoder_is_one_of_whispers_kind(folders, tmp_path):
    config = transformers.VoxtralConfig(
        audio_config={"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
        text_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 32}
        | {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8},
    )
    model = transformers.VoxtralForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    transformers.WhisperFeatureExtractor(feature_size=128).save_pretrained(tmp_path)
    loaded = base.load(str(tmp_path))
    tower = model.get_submodule("model.audio_tower").eval()
    clips = batch(loaded, loaded.window)
    with torch.no_grad():
        expected = tower(loaded.features(*clips)).last_hidden_state
        torch.testing.assert_close(loaded(*clips)[0], expected, rtol=0, atol=1e-4)


def test_a_configuration_file_is_enough_to_build_it_again(encoder):
    config = type(encoder.config).from_dict(json.loads(encoder.config.to_json_string()))
    again = base.from_config(config, json.loads(json.dumps(encoder.extractor_config)))
    again.load_state_dict(encoder.state_dict())
    clips = batch(encoder, 12_000, 5000)
    assert torch.equal(again(*clips)[0], encoder(*clips)[0])


def test_the_dtype_is_that_which_is_asked_for(folders):
    assert base.load(str(folders / "parakeet"), dtype="bfloat16").dtype == torch.bfloat16


def test_the_last_norm_can_be_taken_over(folders):
    encoder = base.load(str(folders / "whisper"))
    clips = batch(encoder, 9000)
    with torch.no_grad():
        before = encoder(*clips)[0]
        norm = encoder.release_norm()
        torch.testing.assert_close(norm(encoder(*clips)[0]), before)
    assert encoder.release_norm() is norm
    assert not any("module.layer_norm." in name for name in encoder.state_dict())


def test_messages_name_what_is_wrong(folders, tmp_path):
    with pytest.raises(ModelError, match=r"cannot be loaded.*nowhere"):
        base.load(str(tmp_path / "nowhere"))

    tiny.llm(tmp_path / "llm", ["a"], hidden=16)
    with pytest.raises(ModelError, match=r"type 'qwen2' is known.*There are: .*whisper"):
        base.load(str(tmp_path / "llm"))

    shutil.copytree(folders / "whisper", tmp_path / "bare")
    (tmp_path / "bare" / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="preprocessor_config"):
        base.load(str(tmp_path / "bare"))

    shutil.copytree(folders / "hubert", tmp_path / "holed")
    weights = safetensors.torch.load_file(tmp_path / "holed" / "model.safetensors")
    weights.pop("encoder.layers.1.attention.q_proj.weight")
    safetensors.torch.save_file(weights, tmp_path / "holed" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks weights.*layers\.1\.attention\.q_proj\.weight \(1 in all\)"):
        base.load(str(tmp_path / "holed"))

    shutil.copytree(folders / "wavlm", tmp_path / "slow")
    setting = json.loads((tmp_path / "slow" / "preprocessor_config.json").read_text())
    (tmp_path / "slow" / "preprocessor_config.json").write_text(json.dumps(setting | {"sampling_rate": 8000}))
    with pytest.raises(ModelError, match="8000 Hz"):
        base.load(str(tmp_path / "slow"))

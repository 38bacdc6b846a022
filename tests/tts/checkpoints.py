"""Tiny TTS models with random weights, saved as those on the Hub are. What they say is noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def vits(folder: Path, speakers: int = 1) -> Path:
    """A VITS of a few layers that spells letters."""
    import torch
    from transformers import VitsConfig, VitsModel, VitsTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    letters = ["<pad>", "<unk>", *" 'abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.json").write_text(json.dumps({letter: n for n, letter in enumerate(letters)}))
    VitsTokenizer(str(folder / "vocab.json"), phonemize=False, is_uroman=False).save_pretrained(folder)
    torch.manual_seed(0)
    config = VitsConfig(
        vocab_size=len(letters),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        ffn_dim=32,
        flow_size=16,
        spectrogram_bins=9,
        upsample_initial_channel=32,
        upsample_rates=[8, 8],
        upsample_kernel_sizes=[16, 16],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3, 5]],
        prior_encoder_num_flows=1,
        prior_encoder_num_wavenet_layers=1,
        posterior_encoder_num_wavenet_layers=1,
        duration_predictor_num_flows=1,
        depth_separable_num_layers=1,
        wavenet_dilation_rate=1,
        num_speakers=speakers,
        speaker_embedding_size=8 if speakers > 1 else 0,
        sampling_rate=22_050,
    )
    VitsModel(config).save_pretrained(folder)
    return folder


def speecht5(folder: Path) -> tuple[Path, Path, Path]:
    """A SpeechT5 with its vocoder and two speakers: the folders of the three."""
    import sentencepiece
    import torch
    from transformers import (
        SpeechT5Config,
        SpeechT5FeatureExtractor,
        SpeechT5ForTextToSpeech,
        SpeechT5HifiGan,
        SpeechT5HifiGanConfig,
        SpeechT5Tokenizer,
    )

    model, vocoder, speakers = folder / "model", folder / "vocoder", folder / "speakers"
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = SpeechT5Config(
        vocab_size=81, **sizes, **heads, speaker_embedding_dim=8, speech_decoder_prenet_units=16,
        speech_decoder_postnet_units=16, num_mel_bins=80,
    )  # fmt: skip
    SpeechT5ForTextToSpeech(config).save_pretrained(model)
    SpeechT5FeatureExtractor().save_pretrained(model)
    (folder / "text").write_text("\n".join("abcdefghijklmnopqrstuvwxyz the quick brown fox, and so on.".split() * 9))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "spm"), vocab_size=36, model_type="char",
        bos_id=0, pad_id=1, eos_id=2, unk_id=3, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    SpeechT5Tokenizer(str(folder / "spm.model")).save_pretrained(model)
    gan = SpeechT5HifiGanConfig(upsample_initial_channel=16, upsample_rates=[16, 16], upsample_kernel_sizes=[32, 32],
                                resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3, 5]])  # fmt: skip
    SpeechT5HifiGan(gan).save_pretrained(vocoder)
    speakers.mkdir()
    for number, name in enumerate(("ann", "bob")):
        np.save(speakers / f"{name}.npy", np.random.default_rng(number).normal(size=8).astype(np.float32))
    return model, vocoder, speakers

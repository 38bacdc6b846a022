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


def csm(folder: Path) -> Path:
    """A CSM of a layer, with a Mimi codec of four codebooks, that spells letters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CsmConfig,
        CsmForConditionalGeneration,
        CsmProcessor,
        EncodecFeatureExtractor,
        MimiConfig,
        PreTrainedTokenizerFast,
    )

    named = ["<pad>", "<bos>", "<eos>", "<|AUDIO|>", "<|audio_eos|>", "<unk>"]
    vocabulary = {letter: n for n, letter in enumerate([*named, *map(chr, range(32, 127))])}
    spelling = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    spelling.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=spelling,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        extra_special_tokens={"audio_token": "<|AUDIO|>", "audio_eos_token": "<|audio_eos|>"},
    )
    small = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    codec = MimiConfig(
        **small,
        num_filters=4,
        codebook_size=64,
        codebook_dim=16,
        vector_quantization_hidden_dimension=16,
        num_quantizers=4,
        num_semantic_quantizers=1,
        upsample_groups=32,
        sampling_rate=24_000,
    )
    config = CsmConfig(
        **small,
        num_codebooks=4,
        vocab_size=33,
        text_vocab_size=len(vocabulary),
        codebook_pad_token_id=32,
        codebook_eos_token_id=0,
        bos_token_id=1,
        pad_token_id=0,
        eos_token_id=2,
        audio_token_id=3,
        audio_eos_token_id=4,
        depth_decoder_config={**small, "num_codebooks": 4, "vocab_size": 33, "backbone_hidden_size": 32},
        codec_config=codec.to_dict(),
    )
    torch.manual_seed(0)
    CsmForConditionalGeneration(config).save_pretrained(folder)
    CsmProcessor(EncodecFeatureExtractor(feature_size=1, sampling_rate=24_000), tokenizer).save_pretrained(folder)
    return folder


def dia(folder: Path) -> Path:
    """A Dia of a layer, with a DAC codec of nine codebooks."""
    import torch
    from transformers import (
        DacConfig,
        DacModel,
        DiaConfig,
        DiaFeatureExtractor,
        DiaForConditionalGeneration,
        DiaProcessor,
        DiaTokenizer,
    )
    from transformers.models.dia.configuration_dia import DiaDecoderConfig, DiaEncoderConfig

    small = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
    }
    across = {"cross_num_attention_heads": 2, "cross_num_key_value_heads": 2, "cross_head_dim": 16}
    config = DiaConfig(
        encoder_config=DiaEncoderConfig(**small, vocab_size=256),
        decoder_config=DiaDecoderConfig(**small, **across, cross_hidden_size=32, vocab_size=1028, num_channels=9),
    )
    torch.manual_seed(0)
    DiaForConditionalGeneration(config).save_pretrained(folder)
    codec = DacConfig(
        encoder_hidden_size=4,
        decoder_hidden_size=32,
        downsampling_ratios=[2, 4, 8, 8],
        n_codebooks=9,
        codebook_dim=4,
        hidden_size=16,
        sampling_rate=44_100,
    )
    DacModel(codec).save_pretrained(folder / "codec")
    heard = DiaFeatureExtractor(sampling_rate=44_100, hop_length=512)
    DiaProcessor(heard, DiaTokenizer(), DacModel.from_pretrained(folder / "codec")).save_pretrained(folder)
    return folder

"""CLAP's audio encoder, HTS-AT, for sounds of any kind: 3.2 frames a second of up to 10 s (arXiv 2211.06687).

It folds the log-mel of 10 s into a square picture and looks at it through windows that shift, so a shorter clip
must be filled up to 10 s, and costs as much: the clip is repeated, as in its training. The frames of the first
repetition are kept. A frame is the mean over the two bands that are left. What it hears is 16 kHz sound at 48 kHz.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import ClapAudioModel

from pipeline.model import features
from pipeline.model.encoders.base import Encoder
from schemas.arrow import SAMPLING_RATE


class Clap(Encoder):
    """CLAP's. Hidden states are those of its last stage; the earlier ones have other widths and rates."""

    is_plugin = True
    model_types = ("clap_audio_model", "clap")
    prefixes = ("audio_model.",)
    heard_at = 3 * SAMPLING_RATE

    @classmethod
    def architecture(cls, config: Any) -> Any:
        return ClapAudioModel

    @classmethod
    def own(cls, config: Any) -> Any:
        config = super().own(config)
        config.enable_fusion = False  # with the look at what exceeds 10 s, which is not asked for here
        return config

    @classmethod
    def usual(cls, config: Any) -> dict[str, Any]:
        return {
            "sampling_rate": cls.heard_at,
            "max_length_s": 10,
            "feature_size": config.num_mel_bins,
            "fft_window_size": 1024,
            "hop_length": 480,
            "frequency_min": 50,
            "frequency_max": 14_000,
            "truncation": "fusion",
            "padding": "repeatpad",
        }

    _grid: tuple[int, int]
    """Rows and columns of the last picture."""
    _steps: int
    """Frames of a whole window."""

    def measure(self) -> None:
        model: Any = self.module
        self.width = model.audio_encoder.num_features
        self.depth = self.config.depths[-1] + 1
        self.window = int(self.extractor_config["max_length_s"]) * SAMPLING_RATE
        self._grid = model.audio_encoder.input_resolutions[-1]
        self._steps = self._grid[1] * int(model.audio_encoder.freq_ratio)
        self.rate = self._steps / int(self.extractor_config["max_length_s"])

    def frames(self, samples: int) -> int:
        return max(1, -(-samples * self._steps // self.window))

    def counts(self, lengths: Tensor) -> Tensor:
        return ((lengths * self._steps + self.window - 1) // self.window).clamp(min=1)

    def features(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """A, F, M."""
        setting = self.extractor_config
        return features.clap(
            waveforms,
            lengths,
            most=int(setting["max_length_s"]) * self.heard_at,
            bands=int(setting["feature_size"]),
            fft=int(setting["fft_window_size"]),
            hop=int(setting["hop_length"]),
            low=float(setting["frequency_min"]),
            high=float(setting["frequency_max"]),
            scale="htk" if setting["truncation"] == "fusion" else "slaney",
            filling=str(setting["padding"]),
        )

    def hidden(self, features: Tensor, lengths: Tensor, mask: Tensor, every_layer: bool) -> Sequence[Tensor]:
        model: Any = self.module
        encoder = model.audio_encoder
        mel = encoder.batch_norm(features.to(self.dtype)[:, None].transpose(1, 3)).transpose(1, 3)
        state = encoder.patch_embed(encoder.reshape_mel2img(mel.float()).to(self.dtype), ())
        *earlier, last = zip(encoder.layers, encoder.input_resolutions, strict=True)
        for stage, grid in earlier:
            state = stage(state, grid)[0]
        stage, grid = last
        states = []
        if every_layer:
            for block in stage.blocks:
                states.append(state)
                state = block(state, grid)[0]
        else:
            state = stage(state, grid)[0]
        states.append(encoder.norm(state))
        return [self._in_time(state)[:, : mask.shape[1]] for state in states]

    def _in_time(self, state: Tensor) -> Tensor:
        """A, T, D of A, rows * columns, D: the picture is folded, with several stretches of time above each other."""
        rows, columns = self._grid
        folds = self._steps // columns
        return state.view(len(state), folds, rows // folds, columns, -1).mean(2).flatten(1, 2)

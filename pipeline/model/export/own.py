"""The format of a ready audio LLM's own class: what it came in, with LoRA merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.model.base import ModelError
from pipeline.model.export.base import Format
from pipeline.model.ready.base import Ready


class Own(Format):
    """As the hub has it."""

    is_plugin = True
    title = "its own class"
    use = """\
## Use

It is loaded and served as the model that it was trained from; with vLLM: `vllm serve {name}`.
"""

    def check(self, speech: Any) -> None:
        if not isinstance(speech, Ready):
            raise ModelError("an AudioLM has no format that others load: export it with `--format audio_flamingo3`")

    def write(self, speech: Any, folder: Path) -> None:
        speech.save(folder)

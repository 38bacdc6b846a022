"""vLLM: starts `vllm serve` for a model on loopback, uses it, and stops it whatever happens.

Source: docs.vllm.ai/en/latest/serving/openai_compatible_server.html. vLLM's dependencies do not fit
beside Prefect's, so it lives in an environment of its own (`make vllm`), which `executable` names.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import xxhash
from pydantic import PositiveFloat

from pipeline.endpoint import EndpointError
from pipeline.llm.base import LLM, OWN_SERVER_GONE, kept_server

log = logging.getLogger("earwitness")

_MADE = Path(__file__).resolve().parents[2] / ".venv-vllm" / "bin" / "vllm"  # by `make vllm`, in a checkout
_SECRETS = ("KEY", "TOKEN", "SECRET", "PASSWORD")
_NEEDED_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # for gated models


class VLLM(LLM):
    """A server of our own, for as long as the run lasts."""

    gone_after: ClassVar[float | None] = OWN_SERVER_GONE

    executable: str = "vllm"
    """The `vllm` command, or the Python of its environment; relative to the recipe if it begins with a dot.
    Where there is no `vllm` on the PATH, that of `make vllm` is taken."""
    arguments: list[str] = []
    """Added to the command line, e.g. `[--tensor-parallel-size, "2"]`."""
    environment: dict[str, str] = {}
    """Added to the server's environment."""
    startup: PositiveFloat = 1800.0
    """Seconds until it must be healthy: large models are loaded slowly."""

    @contextmanager
    def serving(self, folder: Path) -> Iterator[list[str]]:
        command = [*self._command(), "--served-model-name", self.model_name, *self.arguments]
        if any(name.lstrip("-").replace("_", "-").startswith("trust") for name in self.arguments):
            log.warning("the recipe lets vLLM run the Python code that the model %s brings (arguments)", self.model)
        if self.revision and not Path(self.model).is_dir():
            command += ["--revision", self.revision]
        with kept_server("vLLM", command, folder / "vllm.log", self._environment(), self.startup) as url:
            yield [url]

    @cached_property
    def identity(self) -> bytes:
        # What the server is told can change replies, e.g. a quantisation or a chat template.
        told = [self.model, self.revision, *self.arguments]
        folder = Path(self.model)
        if folder.is_dir():  # two folders of one name hold different models
            told[0] = folder.name
            told += [f"{p.name} {p.stat().st_size}" for p in sorted(folder.iterdir()) if p.is_file()]
            told += [p.read_text() for p in (folder / "config.json", folder / "generation_config.json") if p.is_file()]
        return f"{self.model_name}@{xxhash.xxh3_128_hexdigest(chr(0).join(told).encode())}".encode()

    @property
    def model_name(self) -> str:
        return Path(self.model).name if Path(self.model).is_dir() else self.model

    def _command(self) -> list[str]:
        found = shutil.which(self.executable)
        if found is None and self.executable == "vllm":
            found = shutil.which(_MADE)
        if found is None:
            raise EndpointError(
                f"vLLM's command {self.executable!r} is not found: run `make vllm`, or set `executable` to the "
                f"bin/vllm of another environment, or serve the model elsewhere and use the engine `openai`"
            )
        executable = Path(os.path.abspath(found))
        python = executable if executable.name.startswith("python") else executable.with_name("python")
        if python == executable or not _serves(python):
            return [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", self.model]
        return [str(executable), "serve", self.model]

    def _environment(self) -> dict[str, str]:
        secret = {n for n in os.environ if any(s in n.upper() for s in _SECRETS) and n not in _NEEDED_SECRETS}
        kept = {n: v for n, v in os.environ.items() if n not in secret and n != "PYTHONPATH"}
        return kept | {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"} | self.environment


def _serves(python: Path) -> bool:
    """Whether `vllm serve` works: builds for other processors have another name, and it then refuses."""
    if not python.exists():
        return True
    question = "import importlib.metadata; importlib.metadata.version('vllm')"
    return subprocess.run([python, "-c", question], capture_output=True, check=False).returncode == 0

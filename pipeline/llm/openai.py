"""Any OpenAI-compatible endpoint, or a list of equal ones: vLLM, SGLang, llama.cpp, TGI, hosted APIs.

Source: platform.openai.com/docs/api-reference/chat. The key comes from the environment variable that
`api_key_env` names, and goes nowhere but into the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.llm.base import LLM
from pipeline.served import Addresses, addresses, key_from


class OpenAI(LLM):
    """Servers that run already."""

    base_url: Addresses
    """One address or several, with `/v1`: `http://10.0.0.5:8000/v1`."""
    api_key_env: str | None = None
    """The environment variable that holds the key."""

    @property
    def api_key(self) -> str | None:
        return key_from(self.api_key_env)

    @contextmanager
    def serving(self, folder: Path) -> Iterator[list[str]]:
        urls = addresses(self.base_url)
        asyncio.run(self._check(urls))
        yield urls

    async def _check(self, urls: list[str]) -> None:
        async with self.client(urls) as client:
            await client.check_model(self.model_name)

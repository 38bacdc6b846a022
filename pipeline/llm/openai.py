"""Any OpenAI-compatible endpoint, or a list of equal ones: vLLM, SGLang, llama.cpp, TGI, hosted APIs.

Source: platform.openai.com/docs/api-reference/chat. The key comes from the environment variable that
`api_key_env` names, and goes nowhere but into the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from pipeline.llm.base import LLM, key_from


class OpenAI(LLM):
    """Servers that run already."""

    base_url: str | Annotated[list[str], Field(min_length=1)]
    """One address or several, with `/v1`: `http://10.0.0.5:8000/v1`."""
    api_key_env: str | None = None
    """The environment variable that holds the key."""

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, value: str | list[str]) -> str | list[str]:
        for url in [value] if isinstance(value, str) else value:
            if not url.startswith(("http://", "https://")):
                raise ValueError("an address that begins with http:// or https:// is expected")
            if "@" in url:
                raise ValueError("no key or password belongs into an address: set api_key_env")
        return value

    @property
    def api_key(self) -> str | None:
        return key_from(self.api_key_env)

    @contextmanager
    def serving(self, folder: Path) -> Iterator[list[str]]:
        urls = [self.base_url] if isinstance(self.base_url, str) else list(self.base_url)
        asyncio.run(self._check(urls))
        yield urls

    async def _check(self, urls: list[str]) -> None:
        async with self.client(urls) as client:
            await client.check_model(self.model_name)

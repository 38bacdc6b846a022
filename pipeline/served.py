"""Served: the options of an engine that somebody serves behind an OpenAI-compatible API."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from pipeline.endpoint import Client, EndpointError
from schemas.recipe import Options


class Served(Options):
    """Where the servers are, and how patient to be with them."""

    base_url: str | Annotated[list[str], Field(min_length=1)]
    """One address or several equal ones, with `/v1`: `http://10.0.0.5:8000/v1`."""
    api_key_env: str | None = None
    """The environment variable that holds the key, which goes nowhere but into requests."""
    concurrency: PositiveInt = 32
    """Requests in flight at once, over all workers."""
    timeout: PositiveFloat = 300.0
    """Seconds for one try."""
    retries: Annotated[int, Field(ge=0)] = 6
    """Tries after which a request is given up if others succeed."""
    patience: PositiveFloat = 600.0
    """Seconds without any success after which the run stops."""

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
    def urls(self) -> list[str]:
        """All addresses."""
        return [self.base_url] if isinstance(self.base_url, str) else list(self.base_url)

    def client(self, workers: int = 1) -> Client:
        """A client with this worker's share of the requests in flight.

        Raises:
            EndpointError: The key's variable is named but not set.
        """
        return Client(
            self.urls,
            key=_key(self.api_key_env),
            concurrency=max(1, self.concurrency // workers),
            timeout=self.timeout,
            retries=self.retries,
            patience=self.patience,
        )

    def check_model(self, model: str) -> None:
        """Asks every server whether it has a model.

        Raises:
            EndpointError: It cannot be reached, the key is wrong, or the model is not there.
        """

        async def ask() -> None:
            async with self.client() as client:
                await client.check_model(model)

        asyncio.run(ask())


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise EndpointError(f"the environment variable {variable}, which is to hold the API key, is not set")
    return key

"""Served: the options of an engine that somebody serves behind an OpenAI-compatible API."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt

from pipeline import logs
from pipeline.endpoint import Client, EndpointError
from schemas.recipe import Options
from schemas.sample import Rejection

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def _are_addresses(value: str | list[str]) -> str | list[str]:
    for url in addresses(value):
        if not url.startswith(("http://", "https://")):
            raise ValueError("an address that begins with http:// or https:// is expected")
        if "@" in url:
            raise ValueError("no key or password belongs into an address: set api_key_env")
    return value


Addresses = Annotated[str | Annotated[list[str], Field(min_length=1)], AfterValidator(_are_addresses)]
"""What a recipe may give as `base_url`."""


def addresses(base_url: str | list[str]) -> list[str]:
    """All of them."""
    return [base_url] if isinstance(base_url, str) else list(base_url)


class Served(Options):
    """Where the servers are, and how patient to be with them."""

    base_url: Addresses
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

    @property
    def urls(self) -> list[str]:
        """All addresses."""
        return addresses(self.base_url)

    def client(self, workers: int = 1) -> Client:
        """A client with this worker's share of the requests in flight.

        Raises:
            EndpointError: The key's variable is named but not set.
        """
        return Client(
            self.urls,
            key=key_from(self.api_key_env),
            concurrency=max(1, self.concurrency // workers),
            timeout=self.timeout,
            retries=self.retries,
            patience=self.patience,
            kind=type(self).__module__.split(".")[-2],
        )

    def ask_each(
        self,
        items: Sequence[Item],
        ask: Callable[[Client, Item], Awaitable[Answer | Rejection]],
        heard: Callable[[int, Answer], None],
        workers: int,
    ) -> list[Answer | Rejection]:
        """Asks about all items at once, and tells of each answer as it comes.

        Args:
            items: What is asked about.
            ask: Sends one request; a rejection where that one cannot be served.
            heard: Told the item's number and the answer.
            workers: How many processes share the requests in flight.
        """

        async def tell(client: Client, number: int, item: Item) -> Answer | Rejection:
            answer = await ask(client, item)
            if not isinstance(answer, Rejection):
                heard(number, answer)
            return answer

        async def ask_all() -> list[Answer | Rejection]:
            async with self.client(workers) as client, asyncio.TaskGroup() as group:
                tasks = [group.create_task(tell(client, number, item)) for number, item in enumerate(items)]
            return [task.result() for task in tasks]

        try:
            return asyncio.run(ask_all())
        except ExceptionGroup as group:
            raise group.exceptions[0] from group  # the first that ended the others

    def check_model(self, model: str) -> None:
        """Asks every server whether it has a model.

        Raises:
            EndpointError: It cannot be reached, the key is wrong, or the model is not there.
        """

        async def ask() -> None:
            async with self.client() as client:
                await client.check_model(model)

        asyncio.run(ask())


def key_from(variable: str | None) -> str | None:
    """A key from the environment.

    Raises:
        EndpointError: The variable is named but not set.
    """
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise EndpointError(f"the environment variable {variable}, which is to hold the API key, is not set")
    logs.keep_secret(key)
    return key

"""LLM: the engine that writes responses, always reached over HTTP.

An engine says where its servers are (and starts them, if they are its own) and how a question
becomes a request. Workers then talk to the servers through `pipeline.endpoint`.
"""

from __future__ import annotations

import collections
import json
import logging
import socket
import subprocess
import sys
import time
import urllib.request
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import Field, PositiveFloat, PositiveInt

from pipeline.endpoint import PLAIN, Client, EndpointError, NothingSaid
from schemas.conversation import Message
from schemas.recipe import Options
from schemas.replies import Reply

log = logging.getLogger("earwitness")

_FEW_TOKENS = 16  # of the answer to a plain request

OWN_SERVER_GONE = 5.0  # seconds: a server of ours that has ended does not come back by itself


def _json(body: bytes) -> Any:
    """What a body says; None where it is no JSON, or half of it."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(body.decode("utf-8", "surrogatepass"))  # a model may write half of a pair of surrogates
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back for one request."""

    text: str
    finish: str
    """`stop`, or `length` where the reply was cut off."""
    prompt_tokens: int
    completion_tokens: int

    def to_json(self) -> bytes:
        """As it is remembered."""
        return orjson.dumps([self.text, self.finish, self.prompt_tokens, self.completion_tokens])

    @classmethod
    def from_json(cls, content: bytes) -> Completion:
        """What `to_json` wrote."""
        return cls(*orjson.loads(content))

    @classmethod
    def from_response(cls, body: bytes) -> Completion:
        """The answer of a chat completions endpoint.

        Raises:
            ValueError: It is none; `NothingSaid` if it is one of which no choice can be used.
        """
        value = _json(body)
        if not isinstance(value, dict) or "choices" not in value:
            raise ValueError(f"not the answer of a chat completions endpoint: {body[:200]!r}")
        try:
            choice, usage = value["choices"][0], value.get("usage") or {}
            return cls(
                # A lone surrogate is no text: it cannot be stored, and nobody can say it.
                (choice["message"].get("content") or "").encode("utf-8", "replace").decode(),
                str(choice.get("finish_reason") or "stop"),
                _count(usage.get("prompt_tokens")),
                _count(usage.get("completion_tokens")),
            )
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise NothingSaid(f"there is no choice in the answer: {body[:200]!r}") from error


def _count(tokens: object) -> int:
    """A server's count; 0 for one that cannot be."""
    return int(tokens) if isinstance(tokens, (int, float)) and 0 <= tokens < 2**40 else 0


class Prices(Options):
    """For a million tokens."""

    prompt: Annotated[float, Field(ge=0)]
    completion: Annotated[float, Field(ge=0)]
    currency: str = "USD"


class LLM(Options):
    """Base of LLM engines."""

    is_plugin: ClassVar[bool] = True
    gone_after: ClassVar[float | None] = None
    """Seconds after which a server that nobody listens for is given up, if that is not `patience`."""

    model: str
    """As the server calls it."""
    revision: str = ""
    """Anything that tells apart what the model's name does not: a commit, a quantisation. vLLM loads it."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    """How the server is held to a structure. The reply is checked in any case."""
    seeded: bool = True
    """Whether each request carries a seed of its own; for servers that refuse one, `false`."""
    limit_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the limit."""
    extra: dict[str, Any] = {}
    """Added to every request, e.g. `{chat_template_kwargs: {enable_thinking: false}}`."""
    concurrency: PositiveInt = 256
    """Requests in flight at once, over all workers."""
    timeout: PositiveFloat = 300.0
    """Seconds for one try."""
    retries: Annotated[int, Field(ge=0)] = 6
    """Tries after which a request is given up if others succeed."""
    patience: PositiveFloat = 600.0
    """Seconds without any success after which the run stops."""
    attempts: PositiveInt = 3
    """How often a question is asked whose reply is not as it should be, each time with a new seed."""
    prices: Prices | None = None

    @property
    def engine(self) -> str:
        """Its name: that of its file."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def model_name(self) -> str:
        """What requests and rows call the model."""
        return self.model

    @cached_property
    def identity(self) -> bytes:
        """What shapes a reply beside the request itself."""
        return f"{self.model_name}@{self.revision}".encode()

    @property
    def tells_seed(self) -> bool:
        """Whether each request carries its own seed, and so differs from all others."""
        return self.seeded and "seed" not in self.extra

    @property
    def shaping(self) -> dict[str, Any]:
        """The options that shape replies."""
        shaping = ("temperature", "top_p", "structured", "seeded", "limit_key", "extra", "attempts")
        return {"engine": self.engine, "identity": self.identity.decode(), **self.model_dump(include=set(shaping))}

    @property
    def api_key(self) -> str | None:
        """From the environment; never from a recipe."""
        return None

    @abstractmethod
    def serving(self, folder: Path) -> AbstractContextManager[list[str]]:
        """Base URLs of servers that are up, for as long as the context lasts.

        Args:
            folder: Where a server of our own may write its log.

        Raises:
            EndpointError: There is none, the key is wrong, or the model is not there.
        """

    def client(self, urls: list[str], workers: int = 1) -> Client:
        """A client with this worker's share of the requests in flight."""
        return Client(
            urls,
            key=self.api_key,
            concurrency=max(1, self.concurrency // workers),
            timeout=self.timeout,
            retries=self.retries,
            patience=self.patience,
            gone_after=self.gone_after,
        )

    def request(self, messages: tuple[Message, ...], reply: type[Reply] | None, most_tokens: int, seed: int) -> bytes:
        """The body of a chat completions request, equal for equal questions."""
        body: dict[str, Any] = {
            "model": self.model_name,
            "messages": [{"role": m.role, "content": m.content} for m in messages],
            "temperature": self.temperature,
            "top_p": self.top_p,
            self.limit_key: most_tokens,
        }
        if self.seeded:
            body["seed"] = seed % 2**31  # servers take 32 bits, with a sign
        if reply is not None and self.structured != "none":
            body["response_format"] = reply.response_format(self.structured)
        return orjson.dumps(body | self.extra)

    def plain(self, payload: bytes) -> bytes:
        """The same request about nothing, for a few tokens: a server that works answers it, whatever fails the other.

        Args:
            payload: As from `request`.
        """
        few = {"messages": [{"role": "user", "content": PLAIN}], self.limit_key: _FEW_TOKENS}
        return orjson.dumps(orjson.loads(payload) | few)


@contextmanager
def kept_server(
    name: str, command: list[str], logfile: Path, environment: dict[str, str], startup: float
) -> Iterator[str]:
    """A server of our own on a free port of loopback; it ends with the context, or with this process.

    Args:
        name: For messages.
        command: Takes `--host` and `--port`, and answers `/health` when it is ready.
        logfile: Takes what it prints.
        environment: Of the server.
        startup: Seconds until it must be healthy.

    Raises:
        EndpointError: It ends before it is healthy, or takes too long.
    """
    port = _free_port()
    command = [*command, "--host", "127.0.0.1", "--port", str(port)]
    logfile.parent.mkdir(parents=True, exist_ok=True)
    log.info("starting %s (log: %s)", " ".join(command), logfile)
    with open(logfile, "wb") as output:
        keeper = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("_keeper.py")), *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # what is sent to the run's group, or its terminal, is not meant for it
        )
    try:
        _wait_until_healthy(name, keeper, port, logfile, startup)
        yield f"http://127.0.0.1:{port}/v1"
    except EndpointError as error:
        if keeper.poll() is None or "before it was healthy" in str(error):
            raise
        raise EndpointError(
            f"{name} ended with status {keeper.returncode} while it was needed. All replies so far are remembered. "
            f"The end of {logfile}:\n{_tail(logfile)}"
        ) from error
    finally:
        assert keeper.stdin is not None
        keeper.stdin.close()  # the keeper stops the server, also when we are killed here
        keeper.wait()


def _wait_until_healthy(name: str, keeper: subprocess.Popen[bytes], port: int, logfile: Path, startup: float) -> None:
    began = time.monotonic()
    while time.monotonic() - began < startup:
        if keeper.poll() is not None:
            why = f"{name} ended with status {keeper.returncode} before it was healthy"
            raise EndpointError(f"{why}. The end of {logfile}:\n{_tail(logfile)}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                if answer.status == 200:
                    log.info("%s is healthy after %.1f s", name, time.monotonic() - began)
                    return
        except OSError:
            pass  # not yet listening
        time.sleep(0.1)
    raise EndpointError(f"{name} was not healthy after {startup:g} s. The end of {logfile}:\n{_tail(logfile)}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tail(path: Path, lines: int = 20) -> str:
    with open(path, encoding="utf-8", errors="replace") as stream:
        return "".join(collections.deque(stream, lines))

"""The one client for everything behind HTTP: any OpenAI-compatible endpoint, or several.

It keeps connections open, waits and tries again when a server is busy or gone, and tells apart
what is wrong with one request (the sample is set aside) from what is wrong with all (the run stops).
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import orjson
from yarl import URL

from pipeline import counts

if TYPE_CHECKING:  # who asks nobody need not load it: it takes a tenth of a second at each start
    import aiohttp

log = logging.getLogger("earwitness")
T = TypeVar("T")

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_BUSY = frozenset({429, 503, 529})
_NO_KEY = frozenset({401, 403})
_NO_MONEY = 402
_REFUSED_AT_FIRST = 32  # requests that are refused before any is served: then it is not the requests
_FAILED_IN_ROW = 32  # requests that are given up and none is served in between: neither
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds between tries
_LONGEST_ASKED_PAUSE = 300.0  # seconds that a server may ask for with Retry-After
_COMPLAIN_EVERY = 20.0  # seconds
UNREACHED = 20.0  # seconds: an address that nobody has ever answered at is more likely wrong than late
_LONGEST_CONTROL = 60.0  # seconds for the answer to a plain request
_LARGEST_BODY = 64 * 2**20  # bytes of a response
JSON = "application/json"
PLAIN = "Good morning."
"""What a plain request is about."""


class EndpointError(RuntimeError):
    """No request can succeed: a wrong key, an unknown model, a server that is gone for good."""


class Unanswered(EndpointError):
    """A server is not there, or not any more."""


class RequestRefused(Exception):
    """This one request cannot be served; others can."""


class NothingSaid(ValueError):
    """A server's answer in which nothing is said: in the end it is this request that it has none for."""


Control = Callable[[], tuple[bytes, str]]
"""Makes a plain request of the same kind, and its content type: where a server answers that, it is not the server."""


class _Request(NamedTuple):
    """What is asked."""

    method: str
    path: str
    payload: bytes = b""
    content_type: str = JSON
    read: Callable[[bytes], Any] | None = None
    control: Control | None = None


class _Answer(NamedTuple):
    """What one try gave."""

    status: int | None
    """None without an answer."""
    body: bytes
    pause: float | None = None
    """Seconds that the server asks for."""
    refused: bool = False
    """Nobody listens at the address."""
    unreached: bool = False
    """No connection came about: it was refused, or the host does not answer, or has no address."""
    value: Any = None
    """What was read of the body."""
    nonsense: bool = False
    """A success whose body is no answer, such as a gateway's page."""
    empty: bool = False
    """The server's own word that it has nothing to say."""


class Client:
    """Posts requests to the least busy of some equal servers.

    Args:
        urls: Base URLs, e.g. `http://127.0.0.1:8000/v1`.
        key: Sent as a bearer token; None sends none.
        concurrency: Requests in flight at once, over all servers.
        timeout: Seconds for one try.
        retries: Tries after which a request is given up if others succeed.
        patience: Seconds without any success after which the servers are given up.
        gone_after: The same where nobody listens at the address any more.
        kind: What is served, for the counts: `llm`, `tts` or `asr`.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        key: str | None,
        concurrency: int,
        timeout: float,
        retries: int,
        patience: float,
        gone_after: float | None = None,
        kind: str = "llm",
    ) -> None:
        self._urls = [URL(url.rstrip("/") + "/") for url in urls]
        self._in_flight = [0] * len(urls)
        self._resting_until = [0.0] * len(urls)
        self._failures_in_row = [0] * len(urls)
        self._successes = [float("-inf")] * len(urls)
        self._served = self._refused = self._failed_in_row = 0
        self._asking_plainly = asyncio.Lock()
        self._plainly = [(float("-inf"), False)] * len(urls)
        """When a plain request was sent to each server, and whether it was answered."""
        self._key, self._timeout = key, timeout
        self._retries, self._patience = retries, patience
        self._gone_after = patience if gone_after is None else gone_after
        self._places = asyncio.Semaphore(concurrency)
        self._last_success = self._complained = float("-inf")
        self._session: aiohttp.ClientSession | None = None
        self._addresses: dict[tuple[int, str], URL] = {}
        self._traffic = counts.traffic(kind)
        self.sent = 0
        """Requests that went out, tries included."""

    async def __aenter__(self) -> Client:
        import aiohttp

        headers = {"Content-Type": JSON}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        remote = any(url.host not in _LOOPBACK for url in self._urls)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=min(30.0, self._timeout)),
            trust_env=remote,  # looking for a proxy costs as much as the request on loopback
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def check_model(self, model: str, unreached: float = UNREACHED) -> None:
        """Asks every server which models it has. Of several, some may be gone: that is told.

        Args:
            model: As the servers call it.
            unreached: Seconds without any connection after which a server is given up that never answered.

        Raises:
            EndpointError: Nobody answers at any address, the key is wrong or the model is not there. Servers that
                have no such list are taken at their word.
        """
        checks = (self._check(index, model, unreached) for index in range(len(self._urls)))
        errors = [error for error in await asyncio.gather(*checks, return_exceptions=True) if error is not None]
        gone = [error for error in errors if isinstance(error, Unanswered)]
        if len(gone) < len(errors) or len(gone) == len(self._urls):
            raise next(error for error in errors if len(gone) == len(errors) or error not in gone)
        for error in gone:
            log.warning("%s. The other servers do its work, and it takes its share when it is there", error)

    async def _check(self, index: int, model: str, unreached: float) -> None:
        answer = await self._persist(_Request("GET", "models"), only=index, unreached=unreached)
        if answer.status != 200:
            return
        try:
            known = [str(m["id"]) for m in orjson.loads(answer.body)["data"]]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return
        if known and model not in known:
            some = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
            raise EndpointError(f"{_shown(self._urls[index])} has no model {model!r}; it has: {some}")

    async def post(self, path: str, payload: bytes, content_type: str = JSON, control: Control | None = None) -> bytes:
        """The body of a successful response.

        Args:
            path: Below the base URL.
            payload: The body of the request.
            content_type: What that is.
            control: Asked when this is not answered, to know whether it is the request or the server.

        Raises:
            RequestRefused: This request cannot be served.
            EndpointError: None can.
        """
        return (await self._post(_Request("POST", path, payload, content_type, control=control))).body

    async def ask(self, path: str, payload: bytes, read: Callable[[bytes], T], control: Control | None = None) -> T:
        """What is read of a successful response; one that cannot be read is asked for again, as if there were none.

        Args:
            path: Below the base URL.
            payload: The body of the request, in JSON.
            read: Makes something of the response's body; a ValueError says that it is no answer, `NothingSaid`
                that it is one in which nothing is said.
            control: As above.

        Raises:
            RequestRefused: This request cannot be served.
            EndpointError: None can.
        """
        value: T = (await self._post(_Request("POST", path, payload, JSON, read, control))).value
        return value

    async def _post(self, request: _Request) -> _Answer:
        self._traffic.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._traffic.waiting -= 1
        try:
            answer = await self._persist(request)
        finally:
            self._places.release()
        if answer.status == 200:
            self._served += 1
            self._failed_in_row = 0
            return answer
        self._refused += 1
        told = f"{answer.status}: {_message(answer.body)}"
        if not self._served and self._refused >= _REFUSED_AT_FIRST:
            raise EndpointError(f"the first {self._refused} requests were all refused: {told}")
        raise RequestRefused(told)

    async def _persist(self, request: _Request, only: int | None = None, unreached: float = float("inf")) -> _Answer:
        """Tries until there is an answer that more tries would not change."""
        began, vouched = time.monotonic(), False
        failures = failed = tries = 0
        while True:
            index = self._choose() if only is None else only
            answer = await self._try(index, request)
            status, body = answer.status, answer.body
            if status is not None and status not in _AGAIN and not answer.nonsense:
                self._settle(index, request.method, status, body)
                return answer
            now = time.monotonic()
            tries += 1
            failed += status not in _BUSY and not answer.unreached
            # Nothing against the request are being told to wait, and a server that fails whatever it is asked.
            failures += answer.empty or (status not in _BUSY and self._successes[index] > began)
            self._rest(index, now)
            if failures > self._retries:
                raise self._given_up(failures, answer, "" if answer.empty else " while others succeeded")
            if answer.unreached and self._successes[index] < 0 and now - began > unreached:
                raise Unanswered(
                    f"nobody answers at {_shown(self._urls[index])} ({_message(body)}). "
                    f"Start the server, or mend its address in the recipe (base_url)"
                )
            silent = now - max(began, self._last_success)
            over = silent > (self._gone_after if answer.refused else self._patience)
            if request.control and status not in _BUSY and not answer.unreached and (over or failed > self._retries):
                # Whose is the fault? Nobody else may be asking. It is the request's if it fails between two others.
                before, vouched = vouched, await self._answers_plainly(index, request, now)
                if before and vouched:
                    raise self._given_up(failed, answer, " while a plain request was answered")
                if vouched:
                    continue
            if over:
                what = "no connection" if status is None else f"HTTP {status}"
                raise Unanswered(
                    f"{_shown(self._urls[index])} has not answered for {silent:.0f} s ({what}: "
                    f"{_message(body)}). Start it again; all replies so far are remembered"
                )
            self._complain(index, status, body, silent)
            pause = min(_pause(answer, tries), unreached / 5 if answer.unreached else float("inf"))
            await asyncio.sleep(min(pause, self._patience + 1))

    async def _answers_plainly(self, index: int, request: _Request, since: float) -> bool:
        """Whether a server answers a plain request that was sent after a moment. One at a time: it may be in need."""
        async with self._asking_plainly:
            if self._plainly[index][0] < since:
                assert request.control is not None
                payload, content_type = request.control()
                plain = request._replace(payload=payload, content_type=content_type)
                sent, answer = time.monotonic(), None
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LONGEST_CONTROL):
                        answer = await self._try(index, plain)
                self._plainly[index] = sent, answer is not None and answer.status == 200 and not answer.nonsense
                if self._plainly[index][1]:
                    self._settle(index, request.method, 200, b"")
            return self._plainly[index][1]

    def _given_up(self, failures: int, answer: _Answer, how: str) -> Exception:
        told = f"{failures} tries failed{how}: {_message(answer.body)}"
        self._failed_in_row += not answer.empty  # which a server says of one request
        if self._failed_in_row < _FAILED_IN_ROW:
            return RequestRefused(told)
        return EndpointError(
            f"{self._failed_in_row} requests in a row were given up, the last one as {told}. See what is wrong with "
            "the servers; all replies so far are remembered"
        )

    def _complain(self, index: int, status: int | None, body: bytes, silent: float) -> None:
        """Tells a person that the run is waiting, now and then."""
        now = time.monotonic()
        if silent > _COMPLAIN_EVERY and now - self._complained > _COMPLAIN_EVERY:
            self._complained = now
            what = "does not answer" if status is None else f"answers {status}"
            log.warning(
                "%s %s: %s. Trying on for %.0f s",
                _shown(self._urls[index]),
                what,
                _message(body),
                self._patience - silent,
            )

    def _settle(self, index: int, method: str, status: int, body: bytes) -> None:
        self._last_success = self._successes[index] = time.monotonic()
        self._failures_in_row[index] = 0
        url = _shown(self._urls[index])
        if status == _NO_MONEY:
            raise EndpointError(f"{url} answers 402: {_message(body)}")
        if status in _NO_KEY:
            told = "it was given no key" if not self._key else "the key is not accepted"
            raise EndpointError(f"{url} answers {status}: {told}: {_message(body)}")
        if status == 404 and method == "POST":
            raise EndpointError(f"{url} answers 404: is the address or the model's name wrong? {_message(body)}")
        if 300 <= status < 400:
            raise EndpointError(f"{url} answers {status}, a redirection: give the final address")

    def _address(self, index: int, path: str) -> URL:
        """Where a path is on a server; joined once, which costs a tenth of a request."""
        return self._addresses.setdefault((index, path), self._urls[index].join(URL(path)))

    def _rest(self, index: int, now: float) -> None:
        """Lets the others have the work of a server that fails: what fails at once is always the least busy."""
        if self._resting_until[index] > now:
            return  # many fail together, and that is one failure
        self._failures_in_row[index] += 1
        pause = _FIRST_PAUSE * 2 ** min(self._failures_in_row[index], 10)
        self._resting_until[index] = now + min(_LONGEST_PAUSE, pause)

    def _choose(self) -> int:
        if len(self._urls) == 1:
            return 0
        now = time.monotonic()
        order = range(len(self._urls))
        # One that has failed gets a single request to show that it is there again: it may hang.
        awake = [
            i for i in order if self._resting_until[i] <= now and not (self._failures_in_row[i] and self._in_flight[i])
        ]
        if not awake:
            return min(order, key=self._resting_until.__getitem__)
        return min(awake, key=self._in_flight.__getitem__)

    async def _try(self, index: int, request: _Request) -> _Answer:
        import aiohttp

        assert self._session is not None
        self._in_flight[index] += 1
        self._traffic.in_flight += 1
        self.sent += 1
        began, outcome = time.monotonic(), "cancelled"
        try:
            url = self._addresses.get((index, request.path)) or self._address(index, request.path)
            headers = None if request.content_type is JSON else {"Content-Type": request.content_type}
            async with self._session.request(
                request.method, url, data=request.payload or None, headers=headers, allow_redirects=False
            ) as response:
                outcome = _outcome(response.status)
                body = await _whole(response)
                if body is None:
                    return _Answer(413, b"the response is over 64 MB")
                pause = _retry_after(response.headers) if response.status in _AGAIN else None
                answer = _read(_Answer(response.status, body, pause), request.read)
                outcome = "nonsense" if answer.nonsense else outcome
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            text = str(error) or f"no answer in {self._timeout:g} s"
            refused = isinstance(error, aiohttp.ClientConnectorError)
            unreached = refused or isinstance(error, aiohttp.ConnectionTimeoutError)
            outcome = "unreached" if unreached else "timeout" if isinstance(error, TimeoutError) else "cut"
            return _Answer(None, text.encode(), refused=refused, unreached=unreached)
        finally:
            self._in_flight[index] -= 1
            self._traffic.in_flight -= 1
            self._traffic.tried(outcome, time.monotonic() - began)


def _pause(answer: _Answer, tries: int) -> float:
    """Seconds until the next try."""
    pause = random.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(tries, 10)))
    if answer.pause is not None:  # not all again at the same moment
        pause = answer.pause + random.uniform(0, min(pause, 0.25 * answer.pause + 0.1))
    return min(pause, _LONGEST_ASKED_PAUSE)


def _outcome(status: int) -> str:
    """What a status says of a try."""
    if status in _BUSY:
        return "busy"
    return "ok" if status < 300 else "refused" if status < 500 else "failed"


async def _whole(response: aiohttp.ClientResponse) -> bytes | None:
    """The body, or None where it is larger than any answer: its header may not say so, or it may be compressed."""
    told = response.content_length
    if told is not None and told <= _LARGEST_BODY and "Content-Encoding" not in response.headers:
        return await response.read()
    body = bytearray()
    async for piece in response.content.iter_chunked(2**16):
        body += piece
        if len(body) > _LARGEST_BODY:
            return None
    return bytes(body)


def _read(answer: _Answer, read: Callable[[bytes], Any] | None) -> _Answer:
    if read is None or answer.status != 200:
        return answer
    try:
        return answer._replace(value=read(answer.body))
    except ValueError as error:
        return _Answer(200, str(error).encode(), nonsense=True, empty=isinstance(error, NothingSaid))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks for. A date is compared with the server's own clock: ours may be wrong."""
    value = headers.get("Retry-After")
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        until = email.utils.parsedate_to_datetime(value).timestamp()
        now = email.utils.parsedate_to_datetime(headers["Date"]).timestamp() if "Date" in headers else time.time()
        return max(0.0, until - now)
    except ValueError:
        return None


def _shown(url: URL) -> str:
    """An address without user name and password."""
    parts = urlsplit(str(url))
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}".rstrip("/")


def _message(body: bytes) -> str:
    """What a server says went wrong, shortened."""
    try:
        value: Any = orjson.loads(body)
        error = value.get("error", value)
        text = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    except (orjson.JSONDecodeError, AttributeError):
        text = body.decode("utf-8", "replace")
    return " ".join(text.split())[:300]

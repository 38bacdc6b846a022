"""The client: patient with servers, quick with what no server can mend."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import pytest
from aiohttp import web

from pipeline.endpoint import UNREACHED, Client, EndpointError, RequestRefused

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """A server on loopback, in a thread, that answers as a test says."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.keys: set[str | None] = set()
        self.in_flight = self.most_in_flight = 0
        self.answer: Handler = self.fine
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        self.url = f"http://127.0.0.1:{self.port}/v1"

    async def _start(self, port: int = 0) -> int:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.seen[(await request.read()).decode() or request.path] += 1
        self.keys.add(request.headers.get("Authorization"))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self.answer(request)
        finally:
            self.in_flight -= 1

    async def fine(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"fine")

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()

    def start_again(self) -> None:
        asyncio.run_coroutine_threadsafe(self._start(self.port), self._loop).result()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


def client(*servers: Server, **options: object) -> Client:
    defaults = {"key": "k", "concurrency": 8, "timeout": 2.0, "retries": 3, "patience": 3.0}
    return Client([s.url for s in servers], **(defaults | options))  # type: ignore[arg-type]


def post(made: Client, *payloads: str) -> list[object]:
    """What came of each payload: the body or the exception."""

    async def run() -> list[object]:
        async with made:
            return list(
                await asyncio.gather(
                    *(made.post("chat/completions", p.encode()) for p in payloads), return_exceptions=True
                )
            )

    return asyncio.run(run())


def first_times(count: int, response: Callable[[], web.Response], server: Server) -> Handler:
    """Answers each payload so a number of times, then well."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if server.seen[(await request.read()).decode()] <= count:
            return response()
        return web.Response(body=b"fine")

    return answer


def test_a_good_answer(server: Server) -> None:
    assert post(client(server), "a", "b") == [b"fine", b"fine"]
    assert server.keys == {"Bearer k"}


def test_without_a_key_none_is_sent(server: Server) -> None:
    post(client(server, key=None), "a")
    assert server.keys == {None}


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_passing_trouble_is_tried_again(server: Server, status: int) -> None:
    server.answer = first_times(2, lambda: web.Response(status=status, headers={"Retry-After": "0.01"}), server)
    assert post(client(server), "a") == [b"fine"]
    assert server.seen["a"] == 3


def test_a_server_may_say_how_long_to_wait(server: Server) -> None:
    server.answer = first_times(1, lambda: web.Response(status=429, headers={"Retry-After": "0.7"}), server)
    began = time.monotonic()
    assert post(client(server), "a") == [b"fine"]
    assert 0.7 <= time.monotonic() - began < 2.0


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_is_wrong_with_one_request(server: Server, status: int) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if await request.read() == b"bad":
            return web.json_response({"error": {"message": "context length exceeded"}}, status=status)
        return web.Response(body=b"fine")

    server.answer = answer
    good, bad = post(client(server), "good", "bad")
    assert good == b"fine"
    assert isinstance(bad, RequestRefused)
    assert "context length exceeded" in str(bad)
    assert server.seen["bad"] == 1


def test_a_request_that_breaks_the_server_each_time_costs_only_itself(server: Server) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if await request.read() == b"bad":
            return web.Response(status=500, text="cannot")
        await asyncio.sleep(0.2)
        return web.Response(body=b"fine")

    server.answer = answer
    results = post(client(server, patience=60.0), "bad", *(f"good{n}" for n in range(60)))
    assert isinstance(results[0], RequestRefused)
    assert results[1:] == [b"fine"] * 60


@pytest.mark.parametrize(("status", "part"), [(401, "the key is not accepted"), (403, "key"), (404, "name wrong")])
def test_what_no_request_survives_stops_at_once(server: Server, status: int, part: str) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "no such thing"}}, status=status)

    server.answer = answer
    (result,) = post(client(server), "a")
    assert isinstance(result, EndpointError)
    assert part in str(result)
    assert "no such thing" in str(result)
    assert server.seen["a"] == 1


def failing(status: int, **headers: str) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text="no", headers=headers)

    return answer


def test_an_empty_purse_ends_it_at_once(server: Server) -> None:
    server.answer = failing(402)
    (result,) = post(client(server), "a")
    assert isinstance(result, EndpointError)
    assert "402" in str(result)


def test_a_server_that_refuses_all_ends_it(server: Server) -> None:
    server.answer = failing(400)
    results = post(client(server, concurrency=4), *map(str, range(60)))
    assert isinstance(results[-1], EndpointError)
    assert "refused: 400: no" in str(results[-1])
    server.answer = server.fine
    assert post(client(server), "a") == [b"fine"]


def test_a_busy_server_is_asked_less_and_less(server: Server) -> None:
    server.answer = failing(429)
    post(client(server, concurrency=16, patience=6.0), *map(str, range(16)))
    assert server.seen.total() < 16 * 12, "two tries a second and request would be a siege"


def test_those_who_are_told_when_to_come_back_do_not_come_together(server: Server) -> None:
    seen: list[float] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        if server.seen[(await request.read()).decode()] == 1:
            return web.Response(status=429, headers={"Retry-After": "1"})
        seen.append(time.monotonic())
        return web.Response(body=b"fine")

    server.answer = answer
    assert post(client(server, concurrency=16, patience=9.0), *map(str, range(16))) == [b"fine"] * 16
    assert max(seen) - min(seen) > 0.05


def test_a_missing_key_is_named(server: Server) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=401)

    server.answer = answer
    (result,) = post(client(server, key=None), "a")
    assert "it was given no key" in str(result)


def test_a_redirection_is_not_followed(server: Server) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/elsewhere"})

    server.answer = answer
    (result,) = post(client(server), "a")
    assert isinstance(result, EndpointError)
    assert "redirection" in str(result)


def test_busy_for_a_while_is_not_held_against_a_request(server: Server) -> None:
    """429 many more times than there are tries."""
    server.answer = first_times(12, lambda: web.Response(status=429, headers={"Retry-After": "0.02"}), server)
    assert post(client(server, retries=2), "a", "b") == [b"fine", b"fine"]


def test_busy_for_ever_ends(server: Server) -> None:
    server.answer = first_times(10**6, lambda: web.Response(status=429, headers={"Retry-After": "0.05"}), server)
    (result,) = post(client(server, patience=0.6), "a")
    assert isinstance(result, EndpointError)
    assert "HTTP 429" in str(result)
    assert "all replies so far are remembered" in str(result)


def test_an_answer_that_is_cut_is_asked_for_again(server: Server) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if server.seen[(await request.read()).decode()] > 1:
            return web.Response(body=b"fine")
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.close()
        return response

    server.answer = answer
    assert post(client(server), "a") == [b"fine"]


def test_a_server_that_hangs_is_left(server: Server) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if server.seen[(await request.read()).decode()] > 1:
            return web.Response(body=b"fine")
        await asyncio.sleep(60)
        return web.Response()

    server.answer = answer
    assert post(client(server, timeout=0.3), "a") == [b"fine"]


def test_a_server_that_comes_back(server: Server) -> None:
    server.stop()
    threading.Timer(0.8, server.start_again).start()
    assert post(client(server, patience=20.0), "a", "b") == [b"fine", b"fine"]


def test_a_server_that_is_gone(server: Server) -> None:
    server.stop()
    began = time.monotonic()
    (result,) = post(client(server, patience=60.0, gone_after=0.5), "a")
    assert isinstance(result, EndpointError)
    assert "no connection" in str(result)
    assert time.monotonic() - began < 10
    server.start_again()


def test_an_address_is_shown_without_what_is_secret() -> None:
    made = Client(["http://127.0.0.1:9/v1"], key="hunter2", concurrency=1, timeout=1, retries=0, patience=0.1)
    (result,) = post(made, "a")
    assert "hunter2" not in str(result)


def test_never_more_in_flight_than_allowed(server: Server) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.01)
        return web.Response(body=b"fine")

    server.answer = answer
    assert post(client(server, concurrency=5), *map(str, range(60))) == [b"fine"] * 60
    assert server.most_in_flight == 5


def test_equal_servers_share_the_work_and_stand_in_for_each_other() -> None:
    one, two = Server(), Server()

    async def slowly(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.01)
        return web.Response(body=b"fine")

    one.answer = two.answer = slowly
    assert post(client(one, two), *map(str, range(80))) == [b"fine"] * 80
    assert 30 <= one.seen.total() <= 50
    two.stop()
    before = one.seen.total()
    assert post(client(one, two, patience=20.0), *map(str, range(40))) == [b"fine"] * 40
    assert one.seen.total() - before == 40
    one.stop()


@pytest.mark.parametrize("status", [500, 429, 503])
def test_a_server_that_fails_whatever_it_is_asked_spoils_nothing(status: int) -> None:
    good, bad = Server(), Server()

    async def slowly(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.05)
        return web.Response(body=b"fine")

    good.answer, bad.answer = slowly, failing(status)
    begin = time.monotonic()
    assert post(client(good, bad, patience=20.0), *map(str, range(150))) == [b"fine"] * 150
    assert time.monotonic() - begin < 15
    assert bad.seen.total() < 60
    good.stop()
    bad.stop()


def models(*names: str) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"data": [{"id": name} for name in names]})

    return answer


def check(made: Client, model: str, **options: float) -> None:
    async def run() -> None:
        async with made:
            await made.check_model(model, **options)

    asyncio.run(run())


def test_an_unknown_model_is_told_at_once(server: Server) -> None:
    server.answer = models("big", "small")
    check(client(server), "small")
    with pytest.raises(EndpointError, match=r"has no model 'tiny'; it has: big, small"):
        check(client(server), "tiny")


def test_a_server_without_a_list_of_models_is_believed(server: Server) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=404)

    server.answer = answer
    check(client(server), "any")
    server.answer = server.fine
    check(client(server), "any")


def test_an_address_at_which_nobody_ever_answered_is_given_up_soon(server: Server) -> None:
    server.stop()
    began = time.monotonic()
    with pytest.raises(EndpointError, match=rf"nobody answers at {server.url} .*base_url"):
        check(client(server, patience=600.0), "any", unreached=0.5)
    assert time.monotonic() - began < 10
    assert UNREACHED <= 30
    server.start_again()


def test_a_server_that_is_still_starting_is_waited_for(server: Server) -> None:
    server.stop()
    threading.Timer(0.8, server.start_again).start()
    check(client(server), "any", unreached=20.0)


def test_a_server_that_is_there_but_busy_is_not_given_up_for_that(server: Server) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        busy = server.seen.total() <= 6
        return web.Response(status=503, headers={"Retry-After": "0.1"}) if busy else web.json_response({"data": []})

    server.answer = answer
    check(client(server, patience=20.0), "any", unreached=0.1)
    assert server.seen.total() == 7


def ask(made: Client, *payloads: str) -> list[object]:
    """What is read of each answer, where a plain request is at hand; or the exception."""

    def read(body: bytes) -> bytes:
        if body != b"fine":
            raise ValueError("no answer")
        return body

    async def run() -> list[object]:
        async with made:
            asking = (
                made.ask("chat/completions", p.encode(), read, lambda: (b"plain", "text/plain")) for p in payloads
            )
            return list(await asyncio.gather(*asking, return_exceptions=True))

    return asyncio.run(run())


@pytest.mark.parametrize("status", [200, None])
def test_a_request_that_fails_alone_is_told_from_a_server_that_fails(server: Server, status: int | None) -> None:
    """Nobody else asks meanwhile: only a plain request shows whose fault it is."""
    poisoned = {"bad"}

    async def answer(request: web.Request) -> web.StreamResponse:
        if (await request.read()).decode() not in poisoned:
            return web.Response(body=b"fine")
        if status is None:
            await asyncio.sleep(60)
        return web.Response(status=status or 200, text="<html>")

    server.answer = answer
    options = {"retries": 1, "timeout": 0.2, "patience": 30.0}
    began = time.monotonic()
    (result,) = ask(client(server, **options), "bad")
    assert isinstance(result, RequestRefused)
    assert "while a plain request was answered" in str(result)
    assert server.seen["plain"] == 2
    assert server.seen["bad"] == 3
    assert time.monotonic() - began < 15
    poisoned.add("plain")
    (result,) = ask(client(server, **(options | {"patience": 0.3})), "bad")
    assert isinstance(result, EndpointError)
    assert "all replies so far are remembered" in str(result)


def test_a_server_that_answers_nothing_but_plain_requests_ends_it(server: Server) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"fine" if await request.read() == b"plain" else b"<html>")

    server.answer = answer
    results = ask(client(server, concurrency=64, retries=0), *map(str, range(60)))
    assert any(isinstance(result, EndpointError) and "in a row were given up" in str(result) for result in results)


def test_of_several_servers_some_may_be_gone_from_the_start() -> None:
    one, dead, two = Server(), Server(), Server()
    one.answer = two.answer = models("small")
    dead.stop()
    made = client(one, dead, two)
    check(made, "small", unreached=0.3)
    with pytest.raises(EndpointError, match=r"has no model 'tiny'"):
        check(client(one, dead, two), "tiny", unreached=0.3)
    one.answer = two.answer = one.fine
    assert post(client(one, dead, two), *map(str, range(60))) == [b"fine"] * 60
    assert abs(one.seen.total() - two.seen.total()) < 30
    one.stop()
    two.stop()
    with pytest.raises(EndpointError, match="nobody answers at"):
        check(client(one, dead, two), "small", unreached=0.3)


def test_a_server_that_hangs_gets_one_request_until_it_answers_again() -> None:
    good, hung = Server(), Server()

    async def slowly(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        return web.Response(body=b"fine")

    async def never(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    good.answer, hung.answer = slowly, never
    assert post(client(good, hung, timeout=0.4, patience=20.0), *map(str, range(400))) == [b"fine"] * 400
    assert hung.seen.total() < 10, "half of the first ones, and then one at a time"
    good.stop()
    hung.stop()

"""Generate: the text LLM writes responses, many at once, and no reply is ever bought twice.

The stage is an ordinary stream outside and asynchronous inside. It keeps a window of samples in
flight: as soon as the oldest is ready it goes on, and new ones are taken in, so there is no barrier
between batches and memory stays bounded. Samples leave in the order in which they came.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec.structs import replace

from pipeline import logs, replies, seeds
from pipeline.endpoint import JSON, Client, RequestRefused
from pipeline.llm.base import LLM, Completion
from pipeline.memo import Memo, digest
from pipeline.stage import Stage
from pipeline.tasks.base import Brief, Briefing, LLMTask, Question
from schemas.replies import Reply
from schemas.sample import Provenance, Rejection, Sample

_READ_AT_ONCE = 8  # samples taken in between two looks at the network
_GRACE = 10.0  # seconds in which replies under way are still recorded when the run stops
_TOGETHER = 0.002  # seconds in which replies that arrive are recorded with one commit
_ASK_AGAIN = frozenset({"reply_empty", "reply_not_text", "reply_not_json", "reply_breaks_schema"})

Pending = deque["Sample | asyncio.Task[list[Sample]]"]


class Generate(Stage):
    """Completes the samples that `Instruct` left to the LLM.

    Args:
        tasks: By name, those that use the LLM.
        briefing: As for `Instruct`.
        llm: The engine.
        urls: Where it is served.
        memo: Remembers replies.
        seed: The recipe's.
        workers: How many processes share the engine's concurrency.
        window: Samples in flight, as a multiple of the requests in flight.
    """

    def __init__(
        self,
        tasks: Mapping[str, LLMTask],
        briefing: Briefing,
        llm: LLM,
        urls: list[str],
        memo: Memo,
        seed: int,
        workers: int = 1,
        window: int = 4,
    ) -> None:
        self._tasks, self._briefing, self._llm = tasks, briefing, llm
        self._urls, self._seed, self._workers = urls, seed, workers
        self._memo = memo
        self._most_pending = max(1, llm.concurrency // workers) * window
        self.asked = 0
        """Replies that were paid for."""
        self.remembered = 0
        """Replies that were known."""
        self.prompt_tokens = self.completion_tokens = 0
        """Of replies that were paid for."""

    @property
    def model(self) -> str:
        """What rows call the model."""
        return self._llm.model_name

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            loop = runner.get_loop()
            client = self._llm.client(self._urls, self._workers)
            loop.run_until_complete(client.__aenter__())
            try:
                yield from self._stream(iter(samples), loop, client)
            finally:
                loop.run_until_complete(client.__aexit__(None, None, None))

    def _stream(self, samples: Iterator[Sample], loop: asyncio.AbstractEventLoop, client: Client) -> Iterator[Sample]:
        recorder = _Recorder(self._memo, loop)
        pending: Pending = deque()
        more = True
        try:
            while more or pending:
                if more and len(pending) < self._most_pending:
                    # The loop stands still while we read: an earlier stage may run one of its own.
                    more = self._take(samples, pending, loop, client, recorder)
                    _turn(loop)
                elif isinstance(pending[0], asyncio.Task):
                    loop.run_until_complete(pending[0])
                while pending and _is_ready(pending[0]):
                    yield from _finished(pending.popleft())
        finally:
            self._wind_up(pending, loop)

    def _take(
        self,
        samples: Iterator[Sample],
        pending: Pending,
        loop: asyncio.AbstractEventLoop,
        client: Client,
        recorder: _Recorder,
    ) -> bool:
        """Takes some samples in; False when there are no more."""
        for _ in range(_READ_AT_ONCE):
            sample = next(samples, None)
            if sample is None:
                return False
            if sample.rejected is None and sample.task in self._tasks and not sample.messages:
                pending.append(loop.create_task(self._complete(sample, client, recorder)))
            else:
                pending.append(sample)
        return True

    def _wind_up(self, pending: Pending, loop: asyncio.AbstractEventLoop) -> None:
        """Gives requests under way a moment to be recorded: they are paid for."""
        tasks = [t for t in pending if isinstance(t, asyncio.Task)]
        if not tasks:
            return
        _, late = loop.run_until_complete(asyncio.wait(tasks, timeout=_GRACE))
        for task in late:
            task.cancel()
        # Their errors are those of the task that ended the run, or follow from it.
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    async def _complete(self, sample: Sample, client: Client, recorder: _Recorder) -> list[Sample]:
        """Asks until the reply is as it should be, or the attempts are used up."""
        logs.at(sample.id, "generate")
        task = self._tasks[sample.task]
        question = task.ask(sample, self._brief(task, sample))
        found, made = await self._attempt(question, (sample.id, "llm"), sample, client, recorder)
        sample = replace(sample, provenance=made)
        if isinstance(found, Rejection):
            return [sample.reject(*found)]
        samples = _counted_once(list(task.answer(sample, self._brief(task, sample), found)))
        return [await self._checked(task, s, client, recorder) for s in samples] if task.checks else samples

    async def _checked(self, task: LLMTask, sample: Sample, client: Client, recorder: _Recorder) -> Sample:
        """Has the LLM confirm a sample in a request of its own."""
        brief = self._brief(task, sample)
        question = task.check(sample, brief) if sample.rejected is None else None
        if question is None:
            return sample
        found, made = await self._attempt(question, (sample.id, "check"), sample, client, recorder)
        spent = {
            "attempts": sample.provenance.attempts + made.attempts,
            "prompt_tokens": made.prompt_tokens,
            "completion_tokens": made.completion_tokens,
        }
        sample = replace(sample, provenance=replace(sample.provenance, **spent))
        return sample.reject(*found) if isinstance(found, Rejection) else task.checked(sample, brief, found)

    async def _attempt(
        self, question: Question, name: tuple[str, str], sample: Sample, client: Client, recorder: _Recorder
    ) -> tuple[Reply | str | Rejection, Provenance]:
        """The reply to a question, or why there is none, and what it took."""
        made = replace(sample.provenance, engine=self._llm.engine, model=self._llm.model_name)
        found: Reply | str | Rejection = Rejection("reply_empty")
        for attempt in range(1, self._llm.attempts + 1):
            seed = seeds.derive(self._seed, *name, attempt)
            try:
                completion = await self._ask(question, seed, client, recorder)
            except RequestRefused as error:
                return Rejection("request_refused", str(error)), made
            made = replace(
                made,
                seed=seed,
                attempts=attempt,
                prompt_tokens=made.prompt_tokens + completion.prompt_tokens,
                completion_tokens=made.completion_tokens + completion.completion_tokens,
                reply=completion.text[: replies.LARGEST],
            )
            found = _read(question, completion)
            if not (isinstance(found, Rejection) and found.reason in _ASK_AGAIN):
                break
        return found, made

    def _brief(self, task: LLMTask, sample: Sample) -> Brief:
        return self._briefing(task, sample.utterances[0], sample.split)

    async def _ask(self, question: Question, seed: int, client: Client, recorder: _Recorder) -> Completion:
        payload = self._llm.request(question.messages, question.reply, question.most_tokens, seed)
        parts = [payload] if self._llm.tells_seed else [payload, seed.to_bytes(8, "big")]
        key = digest(b"chat", self._llm.identity, *parts)
        known = self._memo.get(key)
        if known is not None:
            self.remembered += 1
            return Completion.from_json(known)
        recorder.check()
        completion = await client.ask(
            "chat/completions", payload, Completion.from_response, lambda: (self._llm.plain(payload), JSON)
        )
        self.asked += 1
        self.prompt_tokens += completion.prompt_tokens
        self.completion_tokens += completion.completion_tokens
        await recorder.record(key, completion.to_json())
        return completion


class _Recorder:
    """Records answers together that arrive together, in one commit."""

    def __init__(self, memo: Memo, loop: asyncio.AbstractEventLoop) -> None:
        self._memo, self._loop = memo, loop
        self._waiting: list[tuple[bytes, bytes]] = []
        self._told: list[asyncio.Future[None]] = []
        self._failure: OSError | None = None

    def check(self) -> None:
        """Nothing more is asked for once an answer could not be recorded: the next ones would be lost, too.

        Raises:
            OSError: What was wrong then.
        """
        if self._failure is not None:
            raise self._failure

    def record(self, key: bytes, answer: bytes) -> asyncio.Future[None]:
        """Done when the answer is on disk. It goes there even if nobody waits for it any more."""
        if not self._waiting:
            self._loop.call_later(_TOGETHER, self._flush)
        self._waiting.append((key, answer))
        recorded = self._loop.create_future()
        self._told.append(recorded)
        return recorded

    def _flush(self) -> None:
        answers, told = self._waiting, self._told
        self._waiting, self._told = [], []
        try:
            self._memo.put_all(answers)
        except OSError as error:
            self._failure = error
        for recorded in told:
            if recorded.cancelled():
                continue
            if self._failure is None:
                recorded.set_result(None)
            else:
                recorded.set_exception(self._failure)


def _read(question: Question, completion: Completion) -> Reply | str | Rejection:
    if question.reply is not None:
        found = replies.structure(completion.text, question.reply)
        if isinstance(found, Reply) or completion.finish != "length":
            return found
    elif completion.finish != "length":
        return replies.plain_text(completion.text)
    return Rejection("reply_truncated", f"it was cut off after {completion.completion_tokens} tokens")


def _counted_once(samples: list[Sample]) -> list[Sample]:
    """Of several samples from one reply the first carries its tokens and text."""
    rest = [
        replace(s, provenance=replace(s.provenance, attempts=0, prompt_tokens=0, completion_tokens=0, reply=""))
        for s in samples[1:]
    ]
    assert samples, "a task must answer with at least one sample"
    return [samples[0], *rest]


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    """Lets the loop look at the network once."""
    loop.call_soon(loop.stop)
    loop.run_forever()


def _is_ready(item: Sample | asyncio.Task[list[Sample]]) -> bool:
    return isinstance(item, Sample) or item.done()


def _finished(item: Sample | asyncio.Task[list[Sample]]) -> Iterable[Sample]:
    return (item,) if isinstance(item, Sample) else item.result()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return asyncio.new_event_loop
    return uvloop.new_event_loop

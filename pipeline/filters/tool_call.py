"""Calls that their tools do not allow, that nothing answers, or that should not be there."""

from __future__ import annotations

from pipeline.stage import Filter
from schemas.conversation import Message
from schemas.sample import Rejection, Sample

_HAS_CALLS = {"tool_call": True, "request_for_info": True, "direct": False, "cannot_answer": False}
"""By outcome, whether there are calls; what is lacking is asked for first."""


class ToolCall(Filter):
    """Holds each call against its tool's JSON Schema, its results and the sample's outcome."""

    def reason(self, sample: Sample) -> Rejection | None:
        calls = any(m.tool_calls for m in sample.messages)
        wrong = _wrong_outcome(sample.outcome, calls) if sample.outcome else None
        if wrong is None and calls:
            wrong = _wrong_call(sample)
        if wrong is None and (calls or sample.tools):
            wrong = _wrong_results(sample.messages)
        return wrong


def _wrong_outcome(outcome: str, calls: bool) -> Rejection | None:
    wanted = _HAS_CALLS.get(outcome)
    if wanted is None:
        return Rejection("outcome_wrong", f"{outcome!r} is none of {', '.join(_HAS_CALLS)}")
    return None if wanted == calls else Rejection("outcome_wrong", f"{outcome}, {'but' if calls else 'without'} a call")


def _wrong_call(sample: Sample) -> Rejection | None:
    from pipeline.tools.validation import problem

    for message in sample.messages:
        for call in message.tool_calls:
            found = problem(call, sample.tools)
            if found is None:
                continue
            kind, _, detail = found.partition(": ")
            if kind == "unknown_tool":
                return Rejection("unknown_tool", detail)
            if kind == "tool_invalid":
                return Rejection("tool_invalid", detail)
            return Rejection("arguments_invalid", detail)
    return None


def _wrong_results(messages: tuple[Message, ...]) -> Rejection | None:
    """A call without a result before the next turn, or a result without a call. Calls may be what comes last."""
    waiting: set[str] = set()
    seen: set[str] = set()
    for message in messages:
        if message.role == "tool":
            if message.tool_call_id not in waiting:
                return Rejection("tool_result_unexpected", f"no call waits for {message.tool_call_id!r}")
            waiting.remove(message.tool_call_id)
            continue
        if waiting:
            return _unanswered(waiting)
        for call in message.tool_calls:
            if call.id in seen:
                return Rejection("tool_result_missing", f"two calls have the id {call.id!r}")
            seen.add(call.id)
            waiting.add(call.id)
    if waiting and not messages[-1].tool_calls:
        return _unanswered(waiting)
    return None


def _unanswered(waiting: set[str]) -> Rejection:
    return Rejection("tool_result_missing", f"nothing answers {', '.join(sorted(waiting))}")

"""What deployments need on a Prefect server: a work pool, its queues with their limits, and automations.

All of it is put there again and again with the same result.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import prefect
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import State, StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import AwaitingRetry, Crashed
from pydantic import SecretStr

from flows._watching import BEAT, BY_HAND

POOL = "earwitness"
QUEUES = {
    "data": (
        1,
        "Writes a dataset: one run at a time.",
    ),
    "gpu": (1, "Uses the GPU: one run at a time."),
}
"""Name: the limit that a new queue gets, and what it is for. A limit that was changed on the server stays."""

REFUSED = (httpx.HTTPError, PrefectException, ValueError)
"""What is raised where a server is none of Prefect's, is another version or wants a password."""
VERSION = prefect.__version__
ALERT_VARIABLE = "EARWITNESS_ALERT_URL"
SILENCE = timedelta(seconds=150)  # five signs of life are missing
WAITING = timedelta(minutes=15)  # a worker took a run and nothing came of it
UNDER_WAY = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
MOST_STARTS = 3  # of a run that was stopped: one that takes the machine down each time is not begun for ever

_ENDED = {f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Crashed", "Cancelled", "TimedOut")}
_TEXT = (
    "{{ flow.name }}{% if deployment %} ({{ deployment.name }}){% endif %}: run {{ flow_run.name }} is"
    " {{ flow_run.state.name }}. {{ flow_run.state.message }} {{ (flow_run|ui_url) or '' }}"
)
PAYLOAD = "{% set text %}" + _TEXT + '{% endset %}{"text": {{ text|string|tojson }}}'
"""What a webhook gets: as Slack, Mattermost, Rocket.Chat and Google Chat take it."""


async def set_up() -> bool:
    """Puts pool, queues and automations on the server.

    Returns:
        Whether somebody is told of failures.
    """
    async with get_client() as client:
        await _pool(client)
        for automation in (_silent(), _stuck()):
            await _automate(client, automation)
        url = os.environ.get(ALERT_VARIABLE)
        if not url:
            for automation in await client.read_automations_by_name(_ALERT):
                await client.delete_automation(automation.id)
            return False
        hook = Webhook(url=SecretStr(url), headers={"Content-Type": "application/json"})
        block: UUID = await hook.save("earwitness-alert", overwrite=True)
        await _automate(client, _alert(block))
        return True


async def _pool(client: PrefectClient) -> None:
    try:
        await client.read_work_pool(POOL)
    except ObjectNotFound:
        await client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    for name, (limit, about) in QUEUES.items():
        try:
            queue = await client.read_work_queue_by_name(name, work_pool_name=POOL)
        except ObjectNotFound:
            await client.create_work_queue(name, description=about, concurrency_limit=limit, work_pool_name=POOL)
        else:
            if queue.concurrency_limit is None:  # made by `prefect deploy`, which gives none
                await client.update_work_queue(queue.id, concurrency_limit=limit, description=about)


_ALERT = "earwitness: tell of failures"


def _silent() -> AutomationCore:
    """A run that gives no sign of life any more has crashed, whoever was to report it."""
    return AutomationCore(
        name="earwitness: silent runs have crashed",
        description="Frees what they hold, so that the next run begins.",
        trigger=_absence({BEAT}, {BEAT, *_ENDED}, SILENCE, BY_HAND),
        actions=[
            ChangeFlowRunState(state=StateType.CRASHED, message="no sign of life: its process or machine is gone")
        ],
    )


def _stuck() -> AutomationCore:
    """So has a run that a worker took and that never began."""
    begun = {"prefect.flow-run.Running", "prefect.flow-run.AwaitingRetry", "prefect.flow-run.Cancelling"}
    return AutomationCore(
        name="earwitness: runs that never begin have crashed",
        description="Frees what they hold, so that the next run begins.",
        trigger=_absence({"prefect.flow-run.Pending"}, {*begun, *_ENDED}, WAITING),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="it never began: its worker is gone")],
    )


def _alert(block: UUID) -> AutomationCore:
    return AutomationCore(
        name=_ALERT,
        description=f"Posts to the address that {ALERT_VARIABLE} held.",
        trigger=_trigger(
            expect={f"prefect.flow-run.{name}" for name in ("Failed", "Crashed", "TimedOut")},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[CallWebhook(block_document_id=block, payload=PAYLOAD)],
    )


def _absence(after: set[str], expect: set[str], within: timedelta, *tags: str) -> EventTrigger:
    return _trigger(*tags, after=after, expect=expect, posture=Posture.Proactive, threshold=1, within=within)


def _trigger(*tags: str, **given: Any) -> EventTrigger:
    """About flow runs of our deployments, and those with other tags, each by itself."""
    return EventTrigger(
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={
            "prefect.resource.role": "tag",
            "prefect.resource.id": [f"prefect.tag.{tag}" for tag in ("earwitness", *tags)],
        },
        for_each={"prefect.resource.id"},
        **given,
    )


async def _automate(client: PrefectClient, automation: AutomationCore) -> None:
    """Puts an automation there, or in place of the one of that name."""
    found = await client.read_automations_by_name(automation.name)
    for other in found[1:]:
        await client.delete_automation(other.id)
    if found:
        await client.update_automation(found[0].id, automation)
    else:
        await client.create_automation(automation)


async def settle_lost() -> list[str]:
    """Runs of the pool that are under way on the server when no worker is there that could run them have crashed.

    Returns:
        Their names.
    """
    async with get_client() as client:
        runs = await client.read_flow_runs(
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNDER_WAY))),
        )
        for run in runs:
            await client.set_flow_run_state(run.id, Crashed(message="its worker is gone"), force=True)
        return [run.name for run in runs]


async def put_back(runs: Iterable[str]) -> None:
    """Runs that were stopped on purpose go on when a worker is there again."""
    async with get_client() as client:
        for run_id in runs:
            run = await client.read_flow_run(UUID(run_id))
            if run.state_type in (*UNDER_WAY[:2], StateType.CRASHED) and run.run_count < MOST_STARTS:
                state: State[Any] = AwaitingRetry(
                    message="stopped; it goes on when a worker is there again",
                    scheduled_time=run.expected_start_time,  # before those that waited for it
                )
                await client.set_flow_run_state(run.id, state, force=True)

"""Publishing: a finished dataset to the Hub, as a job that a schedule starts."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows._watching import shown
from pipeline import inspect, mirror
from pipeline.publish import release
from pipeline.publish.card import table
from pipeline.publish.hub import Published


@task(name="push", cache_policy=NO_CACHE, persist_result=False)
def push(dataset: str, repository: str | None, rejected: bool | None, private: bool | None, purge: bool) -> Published:
    """Sends what the Hub lacks, and makes the release visible."""
    folder = mirror.folder(dataset)
    return release.publish(folder, inspect.load(folder), repository, rejected=rejected, private=private, purge=purge)


@flow(name="publish", persist_result=False)
def publish(
    dataset: str,
    repository: str | None = None,
    rejected: bool | None = None,
    private: bool | None = None,
    purge: bool = False,
) -> Published:
    """Publishes a finished dataset. The Hub's token comes from `HF_TOKEN` alone.

    Args:
        dataset: Its folder.
        repository: `owner/name` on the Hub; what is omitted is as the recipe says under `publish`.
        rejected: Whether rows that were set aside are a configuration of their own.
        private: Whether a new repository is.
        purge: Whether what is no longer shown is deleted for good, and the history with it. No way back.
    """
    done = push(dataset, repository, rejected, private, purge)
    rows = [("commit", done.commit), ("changed", done.changed), ("files", done.files), ("files made", done.made)]
    if purge:
        rows.append(("deleted for good", done.purged))
    key = f"{Path(done.repository).name.lower()}-release".replace("_", "-").replace(".", "-")
    shown("the release", create_markdown_artifact, f"# {done.repository}\n\n{table(('', 'release'), rows)}", key=key)
    return done

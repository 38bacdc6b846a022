"""Withdrawn recordings: a release no longer shows them, but the Hub keeps the files of all releases before it.

To delete them for good, the history becomes one commit, and then the Hub is told to delete what no branch, tag or
pull request names any more. The Hub's own copy for its viewer (`refs/convert/...`) names nothing that stays: the Hub
makes it anew of what is visible.
"""

from __future__ import annotations

import logging

from huggingface_hub.hf_api import GitRefInfo, LFSFileInfo

from pipeline.publish.hub import KIND, Hub

log = logging.getLogger("earwitness")
_MAIN = "main"


def purge(hub: Hub, message: str) -> tuple[str, int]:
    """Deletes for good what is no longer shown. It cannot be undone.

    Args:
        hub: The repository, whose main branch is as it shall stay.
        message: Of the one commit that is left.

    Returns:
        The commit that is visible, and how many files were deleted.

    Raises:
        PublishError: The Hub refuses.
    """
    commits = hub.attempt("list the history", lambda: hub.api.list_repo_commits(hub.repository, repo_type=KIND))
    if len(commits) > 1:
        hub.attempt(
            "squash the history",
            lambda: hub.api.super_squash_history(hub.repository, repo_type=KIND, commit_message=message),
        )
    refs = hub.attempt(
        "list the branches",
        lambda: hub.api.list_repo_refs(hub.repository, repo_type=KIND, include_pull_requests=True),
    )
    head, _ = hub.head()
    named: dict[str, str] = {}
    for ref in (*refs.branches, *refs.tags, *(refs.pull_requests or [])):
        named |= dict.fromkeys(_named(hub, ref), ref.name)
    shown = _named(hub, GitRefInfo(name=_MAIN, ref=f"refs/heads/{_MAIN}", target_commit=head))
    kept = sorted({name for oid, name in named.items() if oid not in shown})
    if kept:
        log.warning(
            "%s: files of older releases stay, because %s names them: delete it on the Hub and purge again",
            hub.repository,
            ", ".join(kept),
        )
    files: list[LFSFileInfo] = hub.attempt(
        "list its large files", lambda: list(hub.api.list_lfs_files(hub.repository, repo_type=KIND))
    )
    gone = [file for file in files if file.oid not in named and file.oid not in shown]
    if gone:
        hub.attempt(
            "delete files for good",
            lambda: hub.api.permanently_delete_lfs_files(hub.repository, gone, repo_type=KIND),
        )
        head, _ = hub.head()
    return head, len(gone)


def _named(hub: Hub, ref: GitRefInfo) -> set[str]:
    files = hub.attempt(f"list {ref.name}", lambda: hub.files(ref.target_commit))
    return {file.lfs.sha256 for file in files.values() if file.lfs is not None}

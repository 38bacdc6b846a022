from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from pipeline.llm import _keeper


@pytest.mark.skipif(sys.platform == "win32", reason="groups of processes are POSIX's")
def test_what_a_killed_server_has_started_ends_with_it() -> None:
    """As vLLM's engine, which would hold on to the GPU's memory."""
    server = ["sh", "-c", "sleep 300 >/dev/null 2>&1 & echo $!; sleep 0.3; kill -9 $$"]
    keeper = subprocess.Popen(
        [sys.executable, _keeper.__file__, *server], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert keeper.stdout is not None
    with keeper:
        engine = psutil.Process(int(keeper.stdout.readline()))
        assert keeper.wait(timeout=60) != 0
    assert not psutil.wait_procs([engine], timeout=10)[1]

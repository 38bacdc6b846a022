"""Prefect flows: order, retries, names and artifacts. All else is in `pipeline`."""

import os

# Before Prefect is imported: it asks nobody outside, and has time to start on a slow machine.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")

"""Runs the benchmarks: all of them, or those that are named.

python -m bench [--out FOLDER] [generate] [write] [plan] [memory] [resume] [decode]
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

NAMES = ("generate", "write", "plan", "memory", "resume", "decode")


def main() -> None:
    """Runs them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], default=NAMES)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.names:
        importlib.import_module(f"bench.{name}").main(given.out)


if __name__ == "__main__":
    main()

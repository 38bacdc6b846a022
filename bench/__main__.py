"""Runs the benchmarks: all of them, or those that are named.

python -m bench [--out FOLDER] [generate] [write] [plan] [memory] [resume] [decode] [tools] [speak]
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

NAMES = ("generate", "write", "plan", "memory", "resume", "decode", "tools", "speak")


def main() -> None:
    """Runs them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all if omitted")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    given = parser.parse_args()
    unknown = set(given.names) - set(NAMES)
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.names or NAMES:
        importlib.import_module(f"bench.{name}").main(given.out)


if __name__ == "__main__":
    main()

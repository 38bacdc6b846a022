"""Runs the benchmarks: those of making data, or those that are named.

python -m bench [--out FOLDER] [generate] [write] [plan] [incremental] [memory] [resume] [decode] [storage] [tools] [speak]
    [publish] [overhead] [cluster]
python -m bench [--out FOLDER] loader train
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

NAMES = (
    "generate",
    "write",
    "plan",
    "incremental",
    "memory",
    "resume",
    "decode",
    "storage",
    "tools",
    "speak",
    "publish",
    "overhead",
    "simulate",
    "cluster",
)
TRAINING = ("loader", "train")


def main() -> None:
    """Runs them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = (*NAMES, *TRAINING)
    told = f"of {', '.join(known)}; those of making data if omitted"
    parser.add_argument("names", nargs="*", metavar="NAME", help=told)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    given = parser.parse_args()
    unknown = set(given.names) - set(known)
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.names or NAMES:
        importlib.import_module(f"bench.{name}").main(given.out)


if __name__ == "__main__":
    main()

"""Parts: what is finished is kept, and made anew only when what it follows from has changed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import xxhash

from pipeline.shards import write_atomically

_PACKAGES = ("torch", "transformers", "espeakng-loader")
Told = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """A folder that is made as a whole."""

    name: str
    folder: Path
    fingerprint: str
    """Of all that it follows from."""

    @property
    def mark(self) -> Path:
        """The file that says what the folder holds. It lies beside it: runs and datasets want theirs to themselves."""
        return self.folder.with_name(f"{self.folder.name}.part.json")

    @property
    def seconds(self) -> float | None:
        """How long it took to be made; None while it is not finished, or where it is of something else."""
        mark = _read(self.mark)
        seconds = mark.get("seconds") if mark.get("fingerprint") == self.fingerprint else None
        return None if seconds is None else float(seconds)

    def make(self, work: Callable[[Path], None], tell: Told) -> float:
        """Makes it, unless it is finished; a folder of something else is cleared before.

        Args:
            work: Fills the folder; it may go on with what it has left there itself.
            tell: Is told what happens.

        Returns:
            Seconds that it took, now or then.
        """
        if (done := self.seconds) is not None:
            tell(f"{self.name}: kept ({done:.0f} s when it was made)")
            return done
        if _read(self.mark).get("fingerprint") != self.fingerprint:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write(None)
        began = time.monotonic()
        work(self.folder)
        spent = time.monotonic() - began
        self._write(spent)
        tell(f"{self.name}: finished in {spent:.0f} s")
        return spent

    def _write(self, seconds: float | None) -> None:
        write_atomically(self.mark, json.dumps({"fingerprint": self.fingerprint, "seconds": seconds}).encode())


def fingerprint(values: Mapping[str, Any], files: Iterable[Path] = ()) -> str:
    """Digest of plain values, of files' contents, and of the versions of the packages that matter."""
    content = orjson.dumps(
        {"values": values, "packages": {name: version(name) for name in _PACKAGES}}, option=orjson.OPT_SORT_KEYS
    )
    return xxhash.xxh3_128_hexdigest(content + b"".join(path.read_bytes() for path in sorted(files)))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

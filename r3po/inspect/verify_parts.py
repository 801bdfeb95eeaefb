"""Parts checked: each is made again from the outcomes, by the code that makes parts, and compared with the file.

The same rows give the same bytes, so one byte of difference is one too many. Nothing is written, and one row group is
in memory at a time. Only a Parquet part that another pyarrow made may have other bytes for the same rows: its rows are
then written again by this one, and that is compared.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import r3po.table.parts as parts
from r3po.state.commits import Commit
from r3po.state.output_folder import Part, part_names
from r3po.text import count_of


def differing_parts(
    published: dict[Part, Path], commit: Commit, job_name: str, shown: parts.ShownRows
) -> list[tuple[str, str, str]]:
    """Return kind and name of the parts of one shard that do not hold what the outcomes give, and what differs.

    Args:
        published: the parts that are there, each with where it can be read.
        shown: the rows of those outcomes that count.
    """
    parquet = next((path for part, path in published.items() if part.kind == "parquet"), None)
    origin = None if parquet is None else parts.read_origin(parquet)
    version = "" if origin is None else origin.metadata.get("r3po.version", "")
    metadata = parts.part_metadata(job_name, commit.shard, version, commit.tally.done_by_fingerprint)

    cuts = parts.part_groups(shown, commit.schema, commit.part_settings)
    groups = {
        name: cut
        for kind in {part.kind for part in published}
        for name, cut in zip(part_names(commit.shard, kind, len(cuts)), cuts, strict=True)
    }

    def make(part: Part, sink: Any) -> None:
        settings = commit.part_settings
        parts.write_parts({part.kind: sink}, shown, commit.schema, metadata, settings, groups[part.name])

    found = []
    for part, path in published.items():
        kind = part.kind
        if part.name not in groups:
            what = f"its shard has {count_of(len(cuts), 'part')} of a kind, and this is none of them"
        elif origin is None or origin.is_made_here:
            with _PublishedPart(path, kind) as compared:
                make(part, compared)
                what = compared.difference()
        elif kind == "parquet":
            expected, copied = _Digest(), _Digest()
            make(part, expected)
            is_read = parts.copy_parquet(path, copied, commit.schema, metadata, commit.part_settings)
            is_same = is_read and copied.sha256 == expected.sha256
            what = "" if is_same else "its rows are not what the outcomes give"
        else:
            what = ""  # its digest is checked already, and that is all that can be said of it
        if what:
            found.append((kind, part.name, what))
    for name in sorted(groups.keys() - {part.name for part in commit.parts}):
        kind = name.rpartition(".")[2]
        found.append((kind, name, "the outcomes make such a part, but its commit does not name it"))
    return found


# Private


class _Sink(io.RawIOBase):
    """A stream that keeps nothing of what is written, and says where it stands."""

    def __init__(self) -> None:
        self._size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any) -> int:
        wanted = memoryview(data).cast("B")
        self._take(wanted)
        self._size += len(wanted)
        return len(wanted)

    def _take(self, wanted: memoryview) -> None:
        raise NotImplementedError


class _PublishedPart(_Sink):
    """Compares every byte that is written with the part that is there."""

    def __init__(self, path: Path, kind: str) -> None:
        super().__init__()
        self._file = open(path, "rb")  # noqa: SIM115 - closed by `close`
        self._is_text = kind == "csv"
        self._line = 1
        self._where = ""

    def difference(self) -> str:
        """Return where the file differs from all that was written here, in words; empty if it does not."""
        if self._where:
            return f"from {self._where} on it is not what the outcomes give"
        return "it goes on after all that the outcomes give" if self._file.read(1) else ""

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()

    def _take(self, wanted: memoryview) -> None:
        if self._where:
            return
        found = self._file.read(len(wanted))
        if found != wanted:
            n_same = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), len(found))
            line = self._line + found[:n_same].count(b"\n")
            self._where = f"line {line:,}" if self._is_text else f"byte {self._size + n_same:,}"
        elif self._is_text:
            self._line += found.count(b"\n")


class _Digest(_Sink):
    """Keeps the digest of what is written."""

    def __init__(self) -> None:
        super().__init__()
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def _take(self, wanted: memoryview) -> None:
        self._digest.update(wanted)

"""The source compared with the manifest once more: files that were deleted, new, or not what f saw."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from r3po.errors import R3poError
from r3po.file_version import FileVersion
from r3po.inspect.findings import Findings
from r3po.source.folders import WalkCounts, is_below
from r3po.source.sources import File, source_of
from r3po.source.told import unreadable_words
from r3po.state.job import Job
from r3po.state.manifest import ShardRef
from r3po.state.shard_files import iter_entries
from r3po.storage.names import show_name
from r3po.text import count_of

RUN = "r3po run"


class _Known(NamedTuple):
    """A file as the manifest has it."""

    path: str
    version: FileVersion
    is_read: bool
    """Whether f has seen it: else the version is that of a walk, and may change until then."""


def check_source_files(job: Job, findings: Findings) -> int:
    """Walk the source and hash its files again with `processes` processes. Returns how many files were looked at.

    With `hash: stat` size and mtime are compared instead.
    """
    check = _SourceCheck(job, findings)
    try:
        check.run()
    except R3poError as error:
        findings.add_error("source", error)
    return check.n_files


class _SourceCheck:
    def __init__(self, job: Job, findings: Findings) -> None:
        self._job, self._findings = job, findings
        self._source = source_of(job.config)
        self._counts = WalkCounts()
        self._n_unreadable = 0
        self._hashed: deque[_Known] = deque()
        """Files that are being hashed, in the order in which their hashes come back."""
        self.n_files = 0

    def run(self) -> None:
        if self._job.built.hash == "content":
            hashed = self._source.hashes(self._files_to_hash(), self._job.config.processes)
            for result in hashed:
                known = self._hashed.popleft()
                if isinstance(result, OSError):
                    self._say(known.path, f"cannot be read: {result.strerror}", "fix its permissions or its disk")
                elif result.hash != known.version.hash:
                    is_shown = not result.is_like(known.version)
                    # A run looks into a file only if its size or mtime moved.
                    self._say(
                        known.path, "its content is not what f saw", RUN if is_shown else f"touch it, then: {RUN}"
                    )
            return
        for known, found in self._iter_both():
            if known.is_read and not found.is_like(known.version):
                self._say(known.path, "its size or mtime is not what f saw", RUN)

    # Private methods

    def _files_to_hash(self) -> Iterator[File]:
        for known, _ in self._iter_both():
            if known.version.hash is not None:
                self._hashed.append(known)
                yield known.path, known.version

    def _iter_both(self) -> Iterator[tuple[_Known, FileVersion]]:
        """Yield the files that manifest and source have; the others become findings."""
        config, counts = self._job.config, self._counts
        known_files = _iter_known(self._job, self._source.order)
        known = next(known_files, None)
        order = self._source.order
        for path, found in self._found(counts):
            self.n_files += 1
            while known is not None and known.path != path and order(known.path) < order(path):
                self._say_gone(known.path)
                known = next(known_files, None)
            if known is None or known.path != path:
                self._say(path, "is new: the manifest does not have it", RUN)
                continue
            yield known, found
            known = next(known_files, None)
        while known is not None:
            self._say_gone(known.path)
            known = next(known_files, None)
        if counts.unreadable:
            files = count_of(self._n_unreadable, "file of the job was", "files of the job were")
            folders = f"{unreadable_words(config, counts.unreadable)} (on_unreadable: skip)"
            self._findings.note(f"{folders}; {files} not looked at")

    def _found(self, counts: WalkCounts) -> Iterator[File]:
        """Yield the files of the source as they are now."""
        for block in self._source.blocks(counts):
            for path, size, mtime_ns, tag in block:
                yield path, FileVersion(size, mtime_ns, tag=tag)

    def _say_gone(self, path: str) -> None:
        if is_below(path, self._counts.unreadable):
            self._n_unreadable += 1
        else:
            self._say(path, "is gone", RUN)

    def _say(self, path: str, what: str, hint: str) -> None:
        where = show_name(self._source.where(path))
        self._findings.add("source", where, what, hint)


# Private functions


def _iter_known(job: Job, order: Callable[[str], Any]) -> Iterator[_Known]:
    """Yield the manifest's files in the source's order: each build appended one sorted stretch, so these are merged."""
    spans = pairwise((*job.built.sorted_spans, job.built.n_places))
    stretches = [_iter_stretch(job, start, stop) for start, stop in spans]
    return stretches[0] if len(stretches) == 1 else heapq.merge(*stretches, key=lambda known: order(known.path))


def _iter_stretch(job: Job, start: int, stop: int) -> Iterator[_Known]:
    refs = tuple(_adopted(job, ref) for ref in job.built.shards)
    for shard, _, entries in iter_entries(job.folders.shards, refs, start, stop):
        commit = job.commits.get(shard)
        for at, path in enumerate(entries.paths):
            if not entries.deleted[at]:
                is_read = commit is not None and entries.builds[at] <= commit.build
                yield _Known(path, entries.version_at(at), is_read)


def _adopted(job: Job, ref: ShardRef) -> ShardRef:
    """Return the shard file with what f saw, also where the manifest has not adopted it yet."""
    commit = job.commits.get(ref.shard)
    return commit.entries if commit is not None and commit.is_for(ref) else ref

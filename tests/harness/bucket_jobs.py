"""Tiny jobs whose table is in a bucket in memory; what is in it is looked at as files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from fake_obstore import FakeObstore
from jobs import TinyJob


class BucketJob(TinyJob):
    """A job that writes below s3://bucket/table; `output` is a folder with the same files, made when looked at."""

    def __init__(self, folder: Path, function: Path, store: FakeObstore, prefix: str = "table/") -> None:
        self.store, self.prefix = store, prefix
        super().__init__(folder, function)
        self.output = folder / "mirror"
        self.configure(output_path=f"s3://bucket/{prefix}")

    def mirror(self) -> None:
        shutil.rmtree(self.output, ignore_errors=True)
        (self.output / ".staging").mkdir(parents=True)
        self.store.mirror(self.prefix, self.output)

    def rows(self) -> list[dict[str, str]]:
        self.mirror()
        return super().rows()

    def published(self, *folders: str) -> dict[str, bytes]:
        self.mirror()
        return super().published(*folders)

    def findings(self, **options: Any) -> list[str]:
        self.mirror()
        return super().findings(in_bucket=True, **options)

"""Which files f took longest for, and how the seconds of all files spread. It reads state only, without the lock."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from r3po.config.settings import Config, ConfigSource
from r3po.errors import ConfigError
from r3po.state.job import read_again, read_job
from r3po.state.known import load_known
from r3po.state.shard_files import read_shard_file
from r3po.storage.names import show_name
from r3po.table.seconds import SecondsTally, SlowPlace


@dataclass(frozen=True)
class SlowFiles:
    """What `slow_files` found. The same fields as `r3po slow --json`."""

    job_name: str
    files: int
    """Files that have an outcome: a row or a failure."""
    seconds: float
    """What f took for all of them together."""
    p50: float
    """Half of the files took at most so many seconds."""
    p95: float
    p99: float
    slowest_percent_files: int
    """How many files are the slowest percent: at least one."""
    slowest_percent_share: float
    """Which part of `seconds` these took, 0 to 1."""
    slowest: tuple[dict[str, Any], ...]
    """The slowest files, slowest first: path, seconds, error_type (empty for a row)."""

    def to_json(self) -> dict[str, Any]:
        return {"schema_version": 1, **dataclasses.asdict(self), "slowest": list(self.slowest)}


def slow_files(config: ConfigSource, n: int = 20) -> SlowFiles:
    """Return the files that f took longest for, and how the seconds of all files spread. Equal to `r3po slow`.

    The seconds of rows and of failures count alike. It works while a run goes on, too.

    Args:
        config: the config file, or a mapping of its keys.
        n: how many of the slowest files to name.

    Raises:
        R3poError: the config cannot be used, or the state is damaged.
    """
    return find_slow_files(load_known(config), n)


def find_slow_files(config: Config, n: int) -> SlowFiles:
    """See `slow_files`."""
    if n < 1:
        raise ConfigError(f"n is {n}; at least 1 file is named", hint="r3po slow -n 20")
    return read_again(lambda: _slow_files(config, n))


# Private functions


def _slow_files(config: Config, n: int) -> SlowFiles:
    job = read_job(config)
    tally = SecondsTally(n)
    named: list[dict[str, Any]] = []
    if job.manifest is not None:
        rules = job.rules()
        for shard in job.iter_shards():
            if shard.commit is not None or shard.segments:
                _, outcomes, indices = shard.read(rules)
                tally.add(shard.ref.shard, outcomes.table, indices)
        refs = {ref.shard: ref for ref in job.built.shards}
        paths: dict[tuple[int, int], str] = {}
        places = tally.slowest()
        for number in sorted({place.shard for place in places}):
            entries = read_shard_file(job.folders.shards, refs[number])
            paths |= {(number, one.place): entries.paths[one.place] for one in places if one.shard == number}
        named = [_named(one, paths[one.shard, one.place]) for one in places]
    spread = tally.spread()
    return SlowFiles(
        job_name=config.job_name,
        files=spread.n_files,
        seconds=round(spread.total, 6),
        p50=round(spread.p50, 6),
        p95=round(spread.p95, 6),
        p99=round(spread.p99, 6),
        slowest_percent_files=spread.n_slowest,
        slowest_percent_share=round(spread.slowest_share, 4),
        slowest=tuple(named),
    )


def _named(one: SlowPlace, path: str) -> dict[str, Any]:
    return {"path": show_name(path), "seconds": round(one.seconds, 6), "error_type": one.error_type}

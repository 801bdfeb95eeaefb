"""One job over three machines that share nothing but the source, hit in every way: the table is that of a plain loop.

Each test hits one run, or lets it be, and holds what it made against an undisturbed run in one process: the same bytes.
Ten seconds after the end nothing of r3po is left on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster_jobs import ClusterLab
from machines import Machines, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

N_FILES = 30_000


@pytest.fixture(scope="module")
def lab_of_all(three_machines: Machines) -> ClusterLab:
    return ClusterLab(three_machines, N_FILES)


@pytest.fixture
def lab(lab_of_all: ClusterLab, machines: Machines) -> Iterator[ClusterLab]:
    """All machines are there; at the end nothing of r3po is left on those that are."""
    before = machines.files()
    yield lab_of_all
    machines.assert_nothing_left(before)


def test_three_machines_do_the_files_of_a_job(lab: ClusterLab) -> None:
    job = lab.new_job()
    job.finish(job.start())
    lab.assert_finished(job)
    by_machine = {name: calls.total() for name, calls in job.calls_by_machine().items()}
    assert sum(by_machine.values()) == N_FILES, "each file was called once"
    assert by_machine.keys() == {"m1", "m2", "m3"}
    assert min(by_machine.values()) > N_FILES / 10

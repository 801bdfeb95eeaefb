"""Workers that are lost while one of them looks for the first row."""

from __future__ import annotations

import pytest

from large_run import LargeRun
from r3po.run.roster import WorkerHandle
from r3po.run.workers import Lost
from r3po.work import Death


@pytest.mark.parametrize("had_it", [True, False])
def test_the_first_row_is_sought_until_the_worker_is_lost_that_does_so(had_it: bool) -> None:
    loop = LargeRun(2, 1).loop
    probe = loop.scheduler.next_work(10)
    assert probe is not None
    loop._first_row.note_handed_out(probe)
    handle = WorkerHandle(1, in_hand=[probe] if had_it else [])
    loop._handle(Lost(handle, Death("one was lost", is_machine=True), None, True))
    assert loop._first_row.is_sought is not had_it

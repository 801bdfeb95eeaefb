"""Whether a roster says of each worker what its handle says: what a scan of all handles would find."""

from __future__ import annotations

from r3po.run.roster import Roster, WorkerHandle


def check_roster(roster: Roster) -> None:
    """Raise AssertionError where a group of a roster has a worker that does not belong there, or lacks one."""
    handles = roster.handles
    assert roster.busy == {number for number, handle in handles.items() if handle.in_hand}
    groups = {("free", *standing): set(group) for standing, group in roster._free.items() if group}
    named = {"leaving": roster.leaving, "starting": roster.starting, "on trial": roster._on_trial}
    groups |= {(name,): set(group) for name, group in named.items() if group}
    expected: dict[tuple[object, ...], set[int]] = {}
    for number, handle in handles.items():
        expected.setdefault(_where(handle), set()).add(number)
    assert groups == expected


def _where(handle: WorkerHandle) -> tuple[object, ...]:
    if handle.is_leaving:
        return ("leaving",)
    if not handle.is_ready:
        return ("starting",)
    if any(getattr(work, "kind", "") == "trial" for work in handle.in_hand):
        return ("on trial",)
    return (
        "free",
        len(handle.in_hand),
        handle.is_fresh and not handle.in_hand,
        handle.role.can_stage,
        handle.role.can_call,
    )

"""The temporary folder of an agent: one that is used is left alone, one whose agent was killed goes with the next."""

from __future__ import annotations

from pathlib import Path

from r3po.engines.agent import FOLDER_PREFIX, take_agent_folder


def folders(place: Path) -> set[Path]:
    return set(place.glob(f"{FOLDER_PREFIX}*"))


def test_a_folder_whose_agent_was_killed_goes_with_the_next_agent_and_others_stay(tmp_path: Path) -> None:
    used, held = take_agent_folder([str(tmp_path)])
    left, gone = take_agent_folder([str(tmp_path)])
    (left / "workers").mkdir()
    gone.release()
    being_made = tmp_path / f"{FOLDER_PREFIX}being_made"
    being_made.mkdir()
    new, lock = take_agent_folder([str(tmp_path)])
    assert folders(tmp_path) == {used, being_made, new}
    for one in (held, lock):
        one.release()


def test_a_place_that_takes_no_folder_is_passed_over(tmp_path: Path) -> None:
    folder, lock = take_agent_folder([str(tmp_path / "missing"), str(tmp_path)])
    assert folder.parent == tmp_path
    lock.release()

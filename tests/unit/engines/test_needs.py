"""What workers need of Ray, and for how many there is room."""

from __future__ import annotations

import pytest

from r3po.engines.needs import Needs, options_of, room_for
from r3po.errors import ConfigError

GIB = float(1 << 30)


@pytest.mark.parametrize(
    ("each", "machine", "n"),
    [
        ({"CPU": 2}, {"CPU": 7}, 3),
        ({"GPU": 0.1}, {"GPU": 1, "CPU": 2}, 10),
        ({"CPU": 0.1, "GPU": 0.3}, {"GPU": 0.9, "CPU": 1}, 3),
        ({"CPU": 0, "memory": 4 * GIB}, {"CPU": 2, "memory": 9 * GIB}, 2),
        ({"tape": 1}, {"CPU": 2}, 0),
    ],
)
def test_a_machine_has_room_for_so_many_workers(each: dict[str, float], machine: dict[str, float], n: int) -> None:
    assert room_for(each, machine) == n


def test_workers_that_have_room_are_all_started_wherever_they_lie() -> None:
    machines = [{"CPU": 3.0}, {"CPU": 3.0}]
    assert Needs({"CPU": 1.5}).fit(4, machines, "into this Ray") == 4
    assert Needs().fit(9, machines, "into this Ray") == Needs({"CPU": 0}).fit(9, machines, "into this Ray") == 9
    with pytest.raises(ConfigError) as caught:  # a worker lies on one machine
        Needs({"CPU": 2}).fit(3, machines, "into this Ray")
    assert str(caught.value).splitlines() == [
        "3 workers do not fit into this Ray: each is to have 2 CPUs",
        "  there: 3 CPUs",
        "  there: 3 CPUs",
        "hint:  write  processes: 2  or  auto",
    ]


def test_with_auto_there_are_as_many_as_have_room_and_one_at_least() -> None:
    needs = Needs({"CPU": 2, "GPU": 0.5}, is_auto=True)
    assert needs.fit(8, [{"CPU": 8.0, "GPU": 1.0}], "on this machine") == 2
    with pytest.raises(ConfigError) as caught:
        needs.fit(8, [{"CPU": 8.0}], "on this machine")
    assert str(caught.value).splitlines() == [
        "one worker does not fit on this machine: each is to have 2 CPUs, 0.5 GPU",
        "  there: 8 CPUs, no GPU",
        "hint:  ask for less with  worker:  in the config",
    ]


def test_what_is_lacking_is_said_in_units() -> None:
    with pytest.raises(ConfigError) as caught:
        Needs({"memory": 4 * GIB, "tape": 1}).fit(1, [{"memory": 3.5 * GIB}] * 7, "into this Ray")
    assert str(caught.value).splitlines() == [
        "one worker does not fit into this Ray: each is to have 4.0 GiB of memory, 1 tape",
        *["  there: 3.5 GiB of memory, no tape"] * 5,
        "  and 2 more",
        "hint:  ask for less with  worker:  in the config; or use a Ray of your own, whose machines have it",
    ]


def test_cores_are_looked_at_before_ray_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r3po.engines.needs.n_cores", lambda: 4)
    assert Needs({"CPU": 2, "GPU": 1}).fit_cores(2) == 2 and Needs({"GPU": 1}).fit_cores(9) == 9
    assert Needs({"CPU": 2}, is_auto=True).fit_cores(4) == 2
    with pytest.raises(ConfigError, match="3 workers do not fit on this machine: each is to have 2 CPUs"):
        Needs({"CPU": 2}).fit_cores(3)


def test_what_others_use_is_named_as_what_workers_wait_for() -> None:
    there = {"CPU": 8.0, "GPU": 2.0}
    assert Needs().shortage({"CPU": 0.5}, there) == "Ray has no free CPU (8 in all)"
    assert Needs({"GPU": 1}).shortage({"CPU": 3.0}, there) == "Ray has no free 1 GPU (2 in all)"
    assert not Needs({"GPU": 1}).shortage(there, there)


def test_ray_is_asked_in_its_own_words() -> None:
    each = {"CPU": 2.0, "GPU": 0.5, "memory": 5.0, "tape": 1.0}
    assert options_of(each) == {"num_cpus": 2, "num_gpus": 0.5, "memory": 5, "resources": {"tape": 1}}
    assert options_of({"CPU": 0.0}) == {"num_cpus": 0}
    assert [Needs(each).n_threads, Needs().n_threads, Needs({"CPU": 0.5}).n_threads] == [2, 1, 1]

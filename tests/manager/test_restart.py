"""The arithmetic of restarts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from geumgo.manager._restart import Restarts, RestartSettings


def test_waits_double_up_to_the_longest():
    restarts = Restarts(RestartSettings(first=0.5, longest=10.0))
    assert restarts.delay == 0
    waits = []
    for _ in range(7):
        restarts = restarts.died(1.0)
        waits.append(restarts.delay)
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_a_healthy_run_starts_afresh():
    restarts = Restarts(RestartSettings(healthy=60.0, loop=3))
    for _ in range(3):
        restarts = restarts.died(1.0)
    assert restarts.looping
    restarts = restarts.died(61.0)
    assert not restarts.looping
    assert restarts.delay == restarts.settings.first
    assert restarts.total == 4


@given(st.lists(st.floats(0, 1e6), max_size=200))
def test_delay_is_always_bounded(runs):
    restarts = Restarts()
    for ran in runs:
        restarts = restarts.died(ran)
        assert restarts.settings.first <= restarts.delay <= restarts.settings.longest
    assert restarts.total == len(runs)

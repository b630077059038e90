"""Waits between attempts."""

from __future__ import annotations

import pytest

from otel_memoir.delivery.backoff import Backoff


def longest(low: float, high: float) -> float:
    """The jitter that is always the most."""
    return high


def test_the_bound_doubles_with_each_failure_up_to_the_maximum() -> None:
    """1, 2, 4, 8, then the maximum for ever, also after a year of failures."""
    backoff = Backoff(initial_s=1.0, maximum_s=10.0, uniform=longest)
    assert [backoff.next_delay_s(n) for n in (1, 2, 3, 4, 5, 6)] == [1, 2, 4, 8, 10, 10]
    assert backoff.next_delay_s(10**9) == 10


def test_the_jitter_is_full_so_that_clients_spread_out() -> None:
    """The random number is drawn from nothing up to the bound, not around it."""
    drawn: list[tuple[float, float]] = []

    def note(low: float, high: float) -> float:
        drawn.append((low, high))
        return low

    assert Backoff(initial_s=2.0, maximum_s=60.0, uniform=note).next_delay_s(3) == 0.0
    assert drawn == [(0.0, 8.0)]


def test_a_server_is_never_asked_before_the_time_it_named() -> None:
    """What the server asked for is the least, whatever the dice and the maximum say."""
    backoff = Backoff(initial_s=1.0, maximum_s=60.0, uniform=lambda low, high: low)
    assert backoff.next_delay_s(1, at_least_s=120.0) == 120.0


def test_clients_that_were_told_the_same_time_do_not_come_back_together() -> None:
    """The jitter comes on top of the server's wait."""
    backoff = Backoff(initial_s=4.0, maximum_s=60.0, uniform=longest)
    assert backoff.next_delay_s(1, at_least_s=120.0) == 124.0


@pytest.mark.parametrize("failures", [0, -1])
def test_a_count_of_no_failures_waits_no_longer_than_the_first(failures: int) -> None:
    """A caller that counts from nought gets the first bound, not half of it."""
    assert Backoff(initial_s=1.0, maximum_s=9.0, uniform=longest).next_delay_s(failures) == 1.0


def test_without_a_given_dice_the_waits_are_random_and_within_the_bound() -> None:
    """The default is the standard library's."""
    waits = {Backoff(initial_s=1.0, maximum_s=60.0).next_delay_s(4) for _ in range(50)}
    assert len(waits) > 10
    assert all(0.0 <= wait <= 8.0 for wait in waits)

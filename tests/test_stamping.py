"""Ids and stamps."""

from __future__ import annotations

import os
import threading
import uuid

import pytest

from otel_memoir.clock import Reading
from otel_memoir.delivery.encoding import StampTemplate
from otel_memoir.spool import Draft, Stream
from otel_memoir.stamping import new_uid, stream_stamper
from otel_memoir.stamping.uid import _Noise


def test_a_uid_is_a_version_7_uuid_of_its_time() -> None:
    """RFC 9562: milliseconds first, then version, variant and randomness."""
    found = uuid.UUID(new_uid(1_700_000_000_123_456_789))
    assert found.version == 7
    assert found.variant == uuid.RFC_4122
    assert found.int >> 80 == 1_700_000_000_123
    assert str(found) == new_uid(1_700_000_000_123_456_789)[:15] + str(found)[15:]


def test_all_74_random_bits_of_a_uid_change_and_no_other() -> None:
    """Version and variant are constant; so is the time here."""
    drawn = [uuid.UUID(new_uid(0)).int for _ in range(2000)]
    ever_set, always_set = 0, (1 << 128) - 1
    for value in drawn:
        ever_set |= value
        always_set &= value
    assert ever_set ^ always_set == 0xFFF << 64 | (1 << 62) - 1
    assert always_set == 0x7 << 76 | 0b10 << 62


def test_threads_never_draw_the_same_uid() -> None:
    """Also over the refills of the noise that they share."""
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.extend([new_uid(0) for _ in range(5000)]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert len(found) == len(set(found)) == 40_000


def child_draw(noise: _Noise) -> str:
    """What a fork child draws next."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, noise.draw().encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        return pipe.read()


def test_fork_children_draw_other_noise_than_their_parent() -> None:
    """Without a fork hook: the pid alone tells."""
    noise = _Noise()
    noise.draw()
    assert len({noise.draw(), child_draw(noise), child_draw(noise)}) == 3


def test_noise_that_ignores_the_pid_repeats_itself_in_a_child() -> None:
    """Negative control of the test above."""

    class Careless(_Noise):
        """Takes every process for its own."""

        def draw(self) -> str:
            return next(self._chunks)

    careless = Careless()
    careless._refill()
    assert child_draw(careless) == child_draw(careless)


class Scripted:
    """A clock that says what it is told to."""

    def __init__(self, *readings: int) -> None:
        self._readings = list(readings)

    def read(self) -> Reading:
        """The next reading."""
        return self._readings.pop(0), None


def test_times_of_a_stream_strictly_increase_whatever_the_clock_does() -> None:
    """It stands still, steps back, and goes on."""
    stream = Stream("0" * 32, 1)
    stamper = stream_stamper(
        stream, clock=Scripted(100, 100, 50, 101, 200),
        make_suffix=lambda s: StampTemplate(s.stream_id, s.epoch).suffix,
    )
    draft = Draft(b"", b"", 0, new_uid())
    assert [stamper(draft, n)[1] for n in range(5)] == [100, 101, 102, 103, 200]


@pytest.mark.parametrize(("behind_s", "is_overruled"), [(9, True), (11, False)])
def test_a_life_begins_after_those_before_it_unless_they_were_far_ahead(
    behind_s: int, is_overruled: bool
) -> None:
    """A wall clock set back between two lives; of one that was wrong by more, the epoch tells."""
    now_ns = 1_700_000_000 * 10**9
    before = Stream("0" * 32, 2, now_ns + behind_s * 10**9)
    stamp = stream_stamper(
        before, clock=Scripted(now_ns, now_ns),
        make_suffix=lambda s: StampTemplate(s.stream_id, s.epoch).suffix,
    )
    _, unix_ns = stamp(Draft(b"", b"", 9, "u"), 1)
    assert unix_ns == (before.after_unix_ns + 1 if is_overruled else now_ns)


def test_a_clock_that_raises_does_not_keep_a_life_from_beginning() -> None:
    """Each stamp fails by itself, and is counted; the file opens."""
    stamp = stream_stamper(
        Stream("0" * 32, 2, 7), clock=Scripted(),
        make_suffix=lambda s: StampTemplate(s.stream_id, s.epoch).suffix,
    )
    with pytest.raises(IndexError):
        stamp(Draft(b"", b"", 9, "u"), 1)

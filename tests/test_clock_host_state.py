"""What the processes of a host share survives what can happen to a file."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clock_host import NOW_NS
from otel_memoir.clock.drift import Drift
from otel_memoir.clock.host_state import (
    LOCK_NAME,
    STATE_NAME,
    HostState,
    Leadership,
    decode,
    encode,
    is_led,
    read_state,
    ruler_identity,
    write_state,
)
from otel_memoir.clock.line import Line

LINE = Line(1, NOW_NS, 2, 3, 4, -5, 6, 7, -8)
STATE = HostState(
    ruler="boot time:[1]", line=LINE, asleep_ns=9, drift=Drift(rate=1e-6, error=2e-5), epoch=3,
    upper_ns=NOW_NS + 1, status="holdover", sources="ntp://a, ntp://b", snapshot={"mode": "x"},
)


@pytest.mark.parametrize("state", [STATE, HostState(ruler="")])
def test_a_state_is_read_as_it_was_written(state: HostState, tmp_path: Path) -> None:
    """In memory and on disk, durable or not."""
    assert decode(encode(state)) == state
    for durable in (False, True):
        write_state(tmp_path, state, durable=durable)
        assert read_state(tmp_path) == state
    assert os.listdir(tmp_path) == [STATE_NAME]


@given(st.integers(0, len(encode(STATE)) * 8 - 1))
def test_a_flipped_bit_is_seen(bit: int) -> None:
    """Wherever it is; nothing is believed of such a file."""
    data = bytearray(encode(STATE))
    data[bit // 8] ^= 1 << bit % 8
    assert decode(bytes(data)) is None


def test_a_truncated_file_is_seen() -> None:
    """Wherever it ends."""
    data = encode(STATE)
    assert not [size for size in range(len(data) - 1) if decode(data[:size])]


@given(st.binary(max_size=200))
def test_nonsense_is_no_state(data: bytes) -> None:
    """It is not an error either."""
    assert decode(data) is None


def test_a_file_without_a_checksum_would_be_believed_after_some_flips() -> None:
    """Negative control: JSON alone does not see a changed digit."""
    head, body = encode(STATE).split(b"\n", 1)
    changed = body.replace(b'"epoch":3', b'"epoch":4')
    assert changed != body
    assert decode(head + b"\n" + changed) is None
    right = b"memoir-clock 1 %08x" % zlib.crc32(changed[:-1])
    found = decode(right + b"\n" + changed)
    assert found is not None
    assert found.epoch == 4


def test_no_state_where_there_is_none_or_not_ours(tmp_path: Path) -> None:
    """A missing file, a directory, a link: somebody else may have put it there."""
    assert read_state(tmp_path) is None
    (tmp_path / STATE_NAME).mkdir()
    assert read_state(tmp_path) is None
    (tmp_path / STATE_NAME).rmdir()
    write_state(tmp_path, STATE, durable=False)
    (tmp_path / STATE_NAME).rename(tmp_path / "elsewhere")
    (tmp_path / STATE_NAME).symlink_to(tmp_path / "elsewhere")
    assert read_state(tmp_path) is None


def test_one_process_leads_until_it_lets_go(tmp_path: Path) -> None:
    """As for spools: the lock alone tells."""
    first, second = Leadership(tmp_path), Leadership(tmp_path)
    assert not is_led(tmp_path)
    assert first.take()
    assert is_led(tmp_path)
    assert not second.take()
    first.give_up()
    assert second.take()
    second.give_up()
    assert (tmp_path / LOCK_NAME).stat().st_mode & 0o777 == 0o600


def test_a_fork_child_that_lets_go_leaves_the_parent_its_lead(tmp_path: Path) -> None:
    """Closing an inherited descriptor unlocks nothing (flock(2))."""
    leadership = Leadership(tmp_path)
    leadership.take()
    child = os.fork()
    if child == 0:
        leadership.give_up()
        os._exit(0)
    os.waitpid(child, 0)
    assert not Leadership(tmp_path).take()
    leadership.give_up()


def test_a_ruler_is_known_by_its_boot_and_its_time_namespace() -> None:
    """The same for all processes that see the same clocks."""
    assert ruler_identity() == ruler_identity() != ""

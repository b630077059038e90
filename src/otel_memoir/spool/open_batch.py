"""The batch that is being appended to. The append lock guards it."""

from __future__ import annotations


class OpenBatch:
    """Gives each record its batch, and a batch its end.

    A batch ends when it is full or when the courier wants it; neither costs a commit,
    since each row carries its batch's number.

    Args:
        records_max: Most records of a batch.

        bytes_max: Most payload bytes of a batch; a larger record has one to itself.
    """

    def __init__(self, *, records_max: int, bytes_max: int) -> None:
        self.number = 1
        self.records = 0
        self._bytes = 0
        self.limit(records_max, bytes_max)

    def limit(self, records_max: int, bytes_max: int) -> None:
        """End batches sooner or later than before. Needs no lock."""
        self._records_max, self._bytes_max = records_max, bytes_max

    def take(self, size: int) -> int:
        """The batch for a record of ``size`` bytes."""
        if self.records >= self._records_max or self._bytes + size > self._bytes_max:
            self.close()
        self.records += 1
        self._bytes += size
        return self.number

    def close(self) -> None:
        """End the batch, unless it is empty."""
        if self.records:
            self.skip_to(self.number + 1)

    def numbers(self, count: int) -> range:
        """Numbers for batches that are not appended to (halves)."""
        self.close()
        first = self.number
        self.skip_to(first + count)
        return range(first, first + count)

    def skip_to(self, number: int) -> None:
        """Begin a new batch with at least this number."""
        self.number = max(self.number + int(self.records > 0), number)
        self.records = 0
        self._bytes = 0

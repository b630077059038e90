"""The state words of leases and waits. Each is written under the mutex only."""

NEW, HELD, RELEASED, LOST = "new", "held", "released", "lost"

WAITING, GRANTED, TIMEOUT, CANCELLED, VICTIM, DIED = (
    "waiting", "granted", "timeout", "cancelled", "victim", "owner_died",
)  # fmt: skip

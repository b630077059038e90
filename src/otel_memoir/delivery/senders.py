"""Which sender speaks the protocol of a destination."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_memoir.delivery.destination import Destination

if TYPE_CHECKING:
    from otel_memoir.delivery.grpc import GrpcSender
    from otel_memoir.delivery.http import HttpSender


def make_sender(destination: Destination) -> HttpSender | GrpcSender:
    """Make the sender for a destination. It opens nothing before its first request.

    ``requests`` and ``grpc`` are imported here and not before: an application that only
    writes should not pay for them.
    """
    if destination.protocol == "grpc":
        from otel_memoir.delivery.grpc import GrpcSender

        return GrpcSender(destination)
    from otel_memoir.delivery.http import HttpSender

    return HttpSender(destination)

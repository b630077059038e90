"""A cheap OTLP/HTTP sink for benchmarks: answers every request with OK, counts afterwards.

Run as a process of its own, so that its work is not in the measured process's CPU time.
It keeps bodies as they come and parses them only when asked, after the timing.

    POST anything   keeps the body, answers an empty partial success
    GET /wait/N     answers once N requests have come since the last count
    GET /count      parses and forgets what was kept; answers "requests records bytes"
"""

from __future__ import annotations

import gzip
import http.server
import threading

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

WAIT_S = 60.0
_EMPTY_PARTIAL_SUCCESS = b"\x0a\x00"

_kept: list[bytes] = []
_changed = threading.Condition()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Two small writes and Nagle's algorithm would cost 40 ms a request.
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with _changed:
            _kept.append(body)
            _changed.notify_all()
        self._answer(_EMPTY_PARTIAL_SUCCESS)

    def do_GET(self) -> None:
        if self.path == "/count":
            self._answer(_count().encode())
            return
        wanted = int(self.path.rpartition("/")[2])
        with _changed:
            _changed.wait_for(lambda: len(_kept) >= wanted, WAIT_S)
        self._answer(str(len(_kept)).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _count() -> str:
    with _changed:
        bodies = list(_kept)
        _kept.clear()
    records = sum(map(_records, bodies))
    return f"{len(bodies)} {records} {sum(map(len, bodies))}"


def _records(body: bytes) -> int:
    if body[:2] == b"\x1f\x8b":
        body = gzip.decompress(body)
    request = ExportLogsServiceRequest.FromString(body)
    return sum(
        len(scope.log_records) for of in request.resource_logs for scope in of.scope_logs
    )


def main() -> None:
    """Serve until the process is ended; the first line on stdout is the port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()

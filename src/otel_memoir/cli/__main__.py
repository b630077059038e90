"""``python -m otel_memoir.cli`` is ``otel-memoir``."""

from otel_memoir.cli.app import main

main(prog_name="otel-memoir")

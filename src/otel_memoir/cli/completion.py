"""``otel-memoir completion``: what a shell needs to complete its commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands and options.

    \b
      source <(otel-memoir completion bash)              in ~/.bashrc
      source <(otel-memoir completion zsh)               in ~/.zshrc
      otel-memoir completion fish > ~/.config/fish/completions/otel-memoir.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    root = ctx.find_root().command
    click.echo(kind(root, {}, "otel-memoir", "_OTEL_MEMOIR_COMPLETE").source())

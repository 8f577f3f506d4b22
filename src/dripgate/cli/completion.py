"""dripgate completion: what a shell needs to complete our commands, options and files."""

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")


@click.command("completion", short_help="Print a script by which a shell completes dripgate.")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the script by which SHELL completes dripgate's commands, options and files.

    \b
    bash   dripgate completion bash > ~/.local/share/bash-completion/completions/dripgate
    zsh    dripgate completion zsh > DIR/_dripgate, with DIR in $fpath
    fish   dripgate completion fish > ~/.config/fish/completions/dripgate.fish
    """
    known = get_completion_class(shell)
    assert known is not None  # noqa: S101 - click has all three
    click.echo(known(context.find_root().command, {}, "dripgate", "_DRIPGATE_COMPLETE").source())

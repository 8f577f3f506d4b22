"""dripgate activate: let a release be tried on this device."""

from pathlib import Path

import click

from dripgate.cli.common import json_option, show


@click.command("activate")
@click.argument("release", type=click.Path(path_type=Path))
@click.option("--trust", required=True, type=click.Path(path_type=Path), help="Public key, PEM.")
@click.option(
    "--store", required=True, type=click.Path(path_type=Path), help="Store that 'run' writes to."
)
@click.option("--allow-older", is_flag=True, help="Also one that is not newer than what was here.")
@json_option
def command(
    release: Path, trust: Path, store: Path, allow_older: bool, json_path: Path | None
) -> None:
    """Verify RELEASE, try it on this hardware, and let the run that writes to STORE take it up.

    It then decides in the shadow of the gate in force, takes its place if it holds its limits, is
    watched, and is kept or rolled back; dripgate inspect STORE --releases says how far it is.
    """
    from dripgate.release.activate import activate

    done = activate(release, trust, store, allow_older=allow_older)
    before = "" if done.in_force is None else f", {done.in_force:.2f} with the gate in force"
    lines = [
        f"{release}: release {done.manifest.version} is signed by the trusted key; golden samples "
        f"differ by {done.apart:.1e} at most; {done.milliseconds:.2f} ms a sample{before}",
        f"it is taken up by the run that writes to {store}, or by the next",
    ]
    show(lines, {"release": str(release), "store": str(store), "activated": done}, json_path)

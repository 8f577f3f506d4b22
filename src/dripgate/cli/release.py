"""dripgate release: a signed gate for devices."""

import os
from pathlib import Path

import click

from dripgate.cli.common import json_option, note, parent_of, show
from dripgate.errors import ReleaseError
from dripgate.gate import Gate


@click.command("release")
@click.argument("gate", type=click.Path(path_type=Path))
@click.option(
    "--key", required=True, metavar="FILE|pkcs11:…",
    help="Private key: a PEM file, or the PKCS#11 URI of a key on a token.",
)  # fmt: skip
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write.")
@click.option(
    "--version", type=click.IntRange(1),
    help="Only rising on a device; the number in OUT's name if not given.",
)  # fmt: skip
@click.option(
    "--golden", type=click.Path(path_type=Path),
    help="Folder or archive of samples that devices decide first; noise if not given.",
)  # fmt: skip
@click.option("--replaces", multiple=True, metavar="ID", help="Gate that it is meant to replace.")
@click.option("--limit", "limits", multiple=True, metavar="NAME=N", help="See docs/release.md.")
@click.option("--notes", default="", help="A line for people.")
@json_option
def command(
    gate: Path, key: str, out: Path, version: int | None, golden: Path | None,
    replaces: tuple[str, ...], limits: tuple[str, ...], notes: str, json_path: Path | None,
) -> None:  # fmt: skip
    """Sign GATE, with golden samples and the limits that it has to hold, for dripgate activate.

    The signature is in OpenSSF Model Signing's format, by a key on P-256, P-384 or P-521; a
    password of the key, or the PIN of a token, comes from DRIPGATE_KEY_PASSWORD. Nothing goes over
    a network.
    """
    from dripgate.release.make import golden_from, make, version_of
    from dripgate.release.manifest import limits_of

    parent_of(out)
    number = version or version_of(out)
    if number is None:
        raise ReleaseError(f"{out}: has no number in its name; give --version, which only rises")
    opened, asked = Gate.load(gate), limits_of(limits)
    samples = golden_from(golden) if golden else []
    if not samples:
        note("  note: golden samples are noise; --golden FOLDER takes real ones")
    manifest = make(
        opened, key, out, version=number, golden=samples, replaces=replaces, limits=asked,
        notes=notes, password=os.environ.get("DRIPGATE_KEY_PASSWORD"),
    )  # fmt: skip
    lines = [
        f"{out}: release {number} of gate {manifest.gate}, signed; {out.stat().st_size:,} bytes"
    ]
    show(lines, {"out": str(out), "manifest": manifest}, json_path)

"""`vae-jax data list` and `vae-jax data prepare NAME`: list data sets, and prepare one on disk."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from vae_jax.cli.commands import register_command
from vae_jax.cli.messages import log
from vae_jax.errors import InputError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


@register_command(
    "data", "the data sets available; prepare NAME: write mnist, digits, moons or sprites to disk",
    arguments="list|prepare", order=110,
)  # fmt: skip
def run(argv: Sequence[str]) -> dict[str, Any]:
    """List the data sets, or prepare one; return the list, or the description of the prepared data set."""
    from vae_jax.data import available, prepare

    parser = _Parser(prog="vae-jax data", description="List data sets, or prepare one on disk without TensorFlow.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{list,prepare}")
    for name, text in (("list", "list the data sets available"), ("prepare", "prepare a data set")):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--data-dir", help="folder of data sets; default: $TFDS_DATA_DIR or ~/tensorflow_datasets")
    names = "digits, sprites, moons, moons_gap, moons_full_half"
    command.add_argument("name", help=f"mnist; or {names}, also made on first use")
    command.add_argument("--from", dest="source", metavar="DIR", help="folder with the official archives")
    options = parser.parse_args(argv)
    if options.command == "prepare":
        return prepare(options.name, source=options.source, data_dir=options.data_dir)
    datasets = available(options.data_dir)
    for entry in datasets:
        log("  ".join(f"{name} {value}" for name, value in entry.items()))
    return {"datasets": datasets}

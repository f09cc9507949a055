"""Commands on datasets, a file for each kind."""

from __future__ import annotations

import argparse

from boucle.faces.cli.data import folders


def add_data(parser: argparse.ArgumentParser, verb: str = "") -> None:
    """The arguments of every verb, or, of those that must start at once, only of what is asked for."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, prog=parser.prog)
    if verb in folders.VERBS:
        folders.add(verbs)
        return
    from boucle.faces.cli.data import catalogue, diff, ingest, look, remote, serve, standards, stream, validate, write

    for part in (ingest, look, diff, catalogue, validate, serve, folders, write, standards, stream, remote):
        part.add(verbs)

"""Commands on datasets, a file for each kind."""

from __future__ import annotations

import argparse

from boucle.faces.cli.data import ingest, look, validate


def add_data(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for part in (ingest, look, validate):
        part.add(verbs)

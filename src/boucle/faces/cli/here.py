"""The workspace a command is about."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from boucle.workspace import Workspace


def opened(args: argparse.Namespace) -> Workspace:
    """The one that `--project` names, or that the present folder lies in."""
    import boucle.workspace

    return boucle.workspace.open(args.project)

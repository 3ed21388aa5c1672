"""The command line."""

import sys
from collections.abc import Sequence

from supermask import extras


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; see `supermask.cli.entry`."""
    try:
        extras.require("cli")
        from supermask.cli.entry import main as run
    except extras.MissingExtraError as error:
        print(f"supermask: {error}", file=sys.stderr)
        return 2
    return run(argv)

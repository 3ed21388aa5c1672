"""The command line."""

from supermask.cli.entry import main as main

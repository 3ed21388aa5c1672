"""`supermask list`: what there is to name, found without torch."""

import argparse
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from supermask.cli.catalogue import Catalogue
from supermask.cli.columns import print_columns
from supermask.cli.flags import FlagError

_LARGEST_HEADER = 1 << 24
"""Bytes of a ticket's header that are read."""


def run_list(options: argparse.Namespace, found: Catalogue) -> None:
    """Print names with what is known of them, as columns or as JSON."""
    rows = list(_rows(options, found))
    if options.json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    if not rows:
        print(f"there are no {options.what} in {_folder(options)}", file=sys.stderr)
    print_columns(rows, titled=options.what == "tickets")
    if options.what == "models":
        print("and those of timm and torchvision, as timm/resnet18 or torchvision/resnet18")


def _rows(options: argparse.Namespace, found: Catalogue) -> Iterator[dict[str, Any]]:
    if options.what in ("recipes", "tickets"):
        folder = _folder(options)
        if not folder.is_dir():
            raise FlagError(f"there is no folder {folder}; name the one that holds {options.what}")
        yield from (_recipes if options.what == "recipes" else _tickets)(folder)
        return
    if options.folder:
        raise FlagError(f"`supermask list {options.what}` takes no folder, and {options.folder!r} was given")
    about = {"methods": found.methods, "models": found.models, "data": found.data}[options.what]
    for name, text in about.items():
        yield {"name": name, "about": text}


def _folder(options: argparse.Namespace) -> Path:
    return Path(options.folder or {"recipes": "recipes", "tickets": "runs"}[options.what])


def _recipes(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*/*.toml")):
        yield {"call": f"supermask {path.parent.name} --config {path}", "about": _first_comment(path)}


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _tickets(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.rglob("*.ticket")):
        about = _provenance(path)
        yield {
            "ticket": str(path),
            "bytes": path.stat().st_size,
            "method": about.get("method", "-"),
            "data": about.get("data", "-"),
            "test accuracy": _accuracy(path),
        }


def _provenance(path: Path) -> dict[str, Any]:
    """What a ticket's header says of its making; nothing of a file that is damaged, which `info` explains."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, _LARGEST_HEADER)))
        about = json.loads(header["__metadata__"]["supermask"])["provenance"]
    except (OSError, ValueError, LookupError, TypeError, struct.error, RecursionError):
        return {}
    return {key: str(value)[:60] for key, value in about.items()} if isinstance(about, dict) else {}


def _accuracy(ticket: Path) -> str:
    """Of the final ticket of a run, whose result lies beside it."""
    try:
        value = json.loads((ticket.parent / "result.json").read_text(encoding="utf-8"))["test_accuracy"]
        return f"{100 * value:.2f} %" if ticket.name == "final.ticket" else "-"
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return "-"

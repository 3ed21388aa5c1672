"""Reports: one self-contained page and figures from a document of results."""

# ruff: noqa: E402 (the missing extra is named before its modules are imported)

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from supermask import extras

extras.require("report")

from supermask.report import experiments
from supermask.report.headline import headline as _headline
from supermask.report.html import write_report as _write_comparison
from supermask.report.pages import PAGES as PAGES
from supermask.report.pages import write_page
from supermask.report.summary import summary_table as summary_table

for _module in iter_modules(experiments.__path__):
    import_module(f"{experiments.__name__}.{_module.name}")


def write_report(document: Mapping[str, Any], out: Path) -> Path:
    """Write `report.html` and the figures as PNG into `out`, and return the path of the page.

    The same document gives the same bytes.

    Args:
        document: What `results.json` of any experiment holds.

    Raises:
        ValueError: The document is of no experiment known here, or has no rows.
        OSError: `out` cannot be written.
    """
    command = _command(document)
    if command in PAGES:
        return write_page(document, command, out)
    return _write_comparison(document, out)


def headline(document: Mapping[str, Any]) -> str:
    """What came out, in one or two sentences."""
    command = _command(document)
    return PAGES[command](document).headline if command in PAGES else _headline(document)


def _command(document: Mapping[str, Any]) -> str:
    parts = str(document.get("schema")).split("/")
    return parts[1] if len(parts) == 3 else ""

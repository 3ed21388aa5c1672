"""`supermask advise`: what the numbers of a run or of a folder of results say to do next."""

import argparse
import dataclasses
import json
import textwrap
from pathlib import Path
from typing import Any

from supermask.cli.flags import FlagError

WIDTH = 100
ADVISED = ("compare", "search", "imp", "anatomy")
"""Commands whose results are rows of runs with learning curves."""


def run_advise(options: argparse.Namespace) -> None:
    """Print findings, each with the command that tests its remedy."""
    from supermask.report.advice import advise

    advice = advise(read_document(Path(options.path)))
    if options.json:
        print(json.dumps(dataclasses.asdict(advice), ensure_ascii=False))
        return
    print(_wrapped(advice.summary))
    for number, finding in enumerate(advice.findings, 1):
        more = f" (and {finding.others} more)" if finding.others else ""
        print(f"\n{number}. {finding.kind}{more}")
        print(_wrapped(f"{finding.measured} {finding.why}", "   "))
        print(f"   {finding.command}")
    if advice.unknown:
        print("\nunknown:")
        for sentence in advice.unknown:
            print(_wrapped(sentence, "   "))


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent)


def read_document(path: Path) -> dict[str, Any]:
    """The results of a folder, of its `results.json`, or of one run of it, with the rows of that run alone.

    Raises:
        FlagError: There are none.
    """
    from supermask.io import read_json

    if path.is_file() and path.suffix == ".json":
        return _checked(path, read_json(path))
    if (path / "results.json").is_file():
        return _checked(path, read_json(path / "results.json"))
    above = path.parent.parent / "results.json"
    if not (path / "config.json").is_file() or not above.is_file():
        raise FlagError(
            f"{path} holds no results: give the --out folder of a command that has ended, its results.json, "
            "or the folder of a run in it"
        )
    return _of_run(path, _checked(above, read_json(above)))


def _checked(path: Path, document: Any) -> dict[str, Any]:
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema not in {f"supermask/{command}/1" for command in ADVISED} or not document.get("rows"):
        raise FlagError(
            f"{path} holds no results that can be advised on ({schema!r:.80}): give those of "
            f"{', '.join(ADVISED)}"
        )
    return dict(document)


def _of_run(path: Path, document: dict[str, Any]) -> dict[str, Any]:
    """A document with the rows, curves and layers of one run alone."""
    from supermask.report.advice.cases import key_of

    rows = [row for row in document["rows"] if row.get("run") == path.resolve().name]
    if not rows:
        raise FlagError(
            f"{path} is no row of the results above it; give a run that is, or {path.parent.parent} for all"
        )
    own = {key_of(row) for row in rows}
    for part in ("curves", "units"):
        if part in document:
            document[part] = [entry for entry in document[part] if key_of(entry) in own]
    return {**{key: value for key, value in document.items() if key != "summary"}, "rows": rows}

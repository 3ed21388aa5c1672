"""Write the tables of the documentation from the committed results.

In README.md and the pages of docs/, each `<!-- KIND: NAME -->` … `<!-- end -->` is filled from
`benchmarks/results/NAME.json` by the function of that kind in `_tables/`.
"""

import argparse
import re
from pathlib import Path

from _tables import KINDS

from supermask.io import read_json, write_text

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
MARK = re.compile(r"<!-- (\w+): ([\w/-]+) -->\n.*?<!-- end -->", re.DOTALL)


def filled(text: str) -> str:
    """A page with every table made from its results."""

    def fill(match: re.Match[str]) -> str:
        kind, name = match.groups()
        document = read_json(RESULTS / f"{name}.json")
        return f"<!-- {kind}: {name} -->\n{KINDS[kind](document, name)}\n<!-- end -->"

    return MARK.sub(fill, text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        if (after := filled(before)) != before:
            write_text(page, after)
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()

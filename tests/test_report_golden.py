"""Pages of committed results are what they were: their text, word for word, and the shapes of their figures.

After a deliberate change of a page, `python -m tests.test_report_golden` writes the sample anew; the commit
says what changed and why.
"""

import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from supermask.report import headline, write_report
from tests.test_report import make_document

ROOT = Path(__file__).parent.parent
SAMPLE = Path(__file__).parent / "golden" / "pages.json"
COMMITTED = (
    "digits-all",
    "mnist-searches",
    "imp/mnist-rounds-magnitude-increase",
    "stability/cifar10-resnet-20",
    "transfer/conv-4-32",
    "anatomy/cifar10-conv-4",
    "theory/mnist",
)
DRAWING = re.compile(r"<svg .*?</svg>", re.DOTALL)
PARTS = re.compile(r"(?=<section)")


def documents() -> dict[str, dict[str, Any]]:
    """Name → results. Committed ones have no curves, so two that were made up have."""
    found = {
        name: json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text()) for name in COMMITTED
    }
    few = ("dense", "edge-popup", "imp", "reinit")
    found["made: few methods"] = make_document(methods=few, seeds=(0, 1))
    many = tuple(0.8**round for round in range(1, 17))
    found["made: many rounds"] = make_document("imp", ("dense", "imp", "reinit"), many, (0,))
    return found


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sample_of(document: dict[str, Any], out: Path) -> dict[str, Any]:
    """The headline in full; of each part of the page a digest without its figures, and of each figure one."""
    page = write_report(document, out).read_text(encoding="utf-8")
    parts = PARTS.split(DRAWING.sub("<svg/>", page))
    return {
        "headline": headline(document),
        "files": sorted(path.name for path in out.iterdir()),
        "parts": [digest(part) for part in parts],
        "figures": [digest(figure) for figure in DRAWING.findall(page)],
    }


@pytest.mark.parametrize("name", documents())
def test_a_page_is_what_it_was(name: str, tmp_path: Path) -> None:
    golden = json.loads(SAMPLE.read_text(encoding="utf-8"))
    expected, found = golden["pages"][name], sample_of(documents()[name], tmp_path)
    if golden["matplotlib"] != matplotlib.__version__:  # another version may set a tick elsewhere
        del expected["figures"], found["figures"]
    assert found == expected


def write_sample() -> None:
    """Make what the pages are now the sample."""
    with tempfile.TemporaryDirectory() as folder:
        pages = {
            name: sample_of(document, Path(folder) / str(index))
            for index, (name, document) in enumerate(documents().items())
        }
    sample = {"matplotlib": matplotlib.__version__, "pages": pages}
    SAMPLE.parent.mkdir(exist_ok=True)
    SAMPLE.write_text(json.dumps(sample, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_sample()

"""A search in other people's loops, as it is: each example learns, and leaves a ticket.

Those that need a framework run in `make integrations`, which installs it.
"""

import importlib
import sys
from pathlib import Path

import pytest

import supermask as sm

FOLDER = Path(__file__).parents[1] / "examples" / "integrations"
FRAMEWORKS = {
    "accelerate_loop": "accelerate",
    "fabric_loop": "lightning",
    "graph_network": None,
    "hf_trainer": "transformers",
    "lightning_module": "lightning",
    "serve_onnx": "onnxruntime",
    "timm_train": "timm",
}
"""Script → the package that it shows a search in."""
OPTIONAL = {"accelerate", "lightning", "transformers"}
CHANCE = {"graph_network": 1 / 7}


def test_every_integration_is_tested():
    assert {path.stem for path in FOLDER.glob("[!_]*.py")} == set(FRAMEWORKS)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.integrations if f in OPTIONAL else ()) for n, f in FRAMEWORKS.items()],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_search_learns_in_it(name, tmp_path, monkeypatch):
    if FRAMEWORKS[name] and FRAMEWORKS[name] not in OPTIONAL:  # those are installed, or it is an error
        pytest.importorskip(FRAMEWORKS[name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(FOLDER)
    before = set(sys.modules)
    script = importlib.import_module(name)
    try:
        accuracy = script.main(steps=60, out="a.ticket")
    finally:
        for module in set(sys.modules) - before:
            if str(getattr(sys.modules[module], "__file__", "")).startswith(str(FOLDER)):
                del sys.modules[module]
    ticket = sm.Ticket.load(tmp_path / "a.ticket")
    assert ticket.strong and ticket.density == pytest.approx(0.5, abs=1e-3)
    assert accuracy > 3 * CHANCE.get(name, 0.1)

"""Every script of `benchmarks/` says by `--help` what it does and what each of its arguments means."""

import argparse
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if not path.stem.startswith("_"))


class Asked(Exception):
    """Carries the parser that a script was about to use."""


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # of torch's own mkldnn
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_argument_is_documented(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(parser: argparse.ArgumentParser, *_: object) -> None:
        raise Asked(parser)

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Asked) as asked:
        runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
    parser = asked.value.args[0]
    assert parser.description, f"{name}.py does not say what it does"
    undocumented = [action.dest for action in parser._actions if not action.help]
    assert not undocumented, f"{name}.py does not say what {undocumented} mean"
    parser.format_help()  # a stray % in a text would be an error here

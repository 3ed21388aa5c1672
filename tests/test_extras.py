"""A light core: what works without the extras, and the command that a missing one is named with."""

import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

import supermask as sm
from supermask import extras
from supermask.data import load_data
from supermask.data.decode import size_of
from supermask.prune.structured import dependencies

PROJECT = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {
    "PIL": "pillow",
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "torch_pruning": "torch-pruning",
}
"""Module → the package that brings it, where the names differ."""
OPTIONAL = sorted({module for modules in extras.EXTRAS.values() for module in modules})


def without(modules: list[str], code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process in which these modules cannot be imported."""
    program = f"import sys; sys.modules.update(dict.fromkeys({modules}))\n" + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


@pytest.mark.parametrize("extra", extras.EXTRAS)
def test_an_extra_brings_the_modules_that_it_is_said_to(extra):
    asked = [re.match(r"[\w-]+(\[.*\])?", line)[0] for line in PROJECT["optional-dependencies"][extra]]
    packages = {name for name in asked if "[" not in name}
    assert packages == {DISTRIBUTIONS.get(module, module) for module in extras.EXTRAS[extra]}


def test_the_core_needs_four_packages():
    names = {re.match(r"[\w-]+", line)[0] for line in PROJECT["dependencies"]}
    assert names == {"torch", "numpy", "safetensors", "einops"}


def test_a_search_its_ticket_and_a_packed_layer_need_no_extra(tmp_path):
    done = without(
        OPTIONAL,
        f"""
        import torch, supermask as sm

        model = sm.create_model("lenet-300-100", num_classes=10, in_channels=1, image_size=8)
        sm.randomize_(model, init="signed_constant", seed=0, density=0.5)
        search = sm.EdgePopup(model, density=0.5, lr=0.1)
        images, labels = torch.rand(8, 1, 8, 8), torch.arange(8)
        sm.fit(model, search, lambda step: (images, labels), steps=2)
        search.ticket().save("{tmp_path}/a.ticket")
        network = sm.load("{tmp_path}/a.ticket")
        assert torch.equal(network(images), model.eval()(images))
        packed = sm.pack(network, sm.Ticket.load("{tmp_path}/a.ticket"))
        torch.testing.assert_close(packed(images), network(images))
        import supermask.data  # the registry, and sets that are files of bytes
        try:
            import supermask.report
        except ImportError as error:
            assert "supermask[report]" in str(error)
        else:
            raise AssertionError("a report was imported without what it is made with")
        """,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("absent", "extra", "call"),
    [
        ("timm", "models", lambda: sm.create_model("resnet18")),
        ("torchvision", "models", lambda: sm.list_models("torchvision")),
        ("sklearn", "data", lambda: load_data("digits")),
        ("PIL", "data", lambda: size_of(Path("a.png"))),
        ("filelock", "data", lambda: extras.require("data")),
        ("matplotlib", "report", lambda: extras.require("report")),
        ("torch_pruning", "structured", lambda: dependencies(None, None)),
    ],
)
def test_a_missing_extra_is_named_with_its_command(absent, extra, call, monkeypatch):
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(extras.MissingExtraError) as error:
        call()
    assert f"needs {absent}," in str(error.value) and f"pip install 'supermask[{extra}]'" in str(error.value)


def test_the_command_line_without_its_extra_says_so_and_ends_with_2():
    done = without(["rich"], "from supermask.cli import main; sys.exit(main(['info', 'a.ticket']))")
    assert done.returncode == 2
    assert done.stderr == (
        "supermask: this needs rich, which is not installed; it comes with: pip install 'supermask[cli]'\n"
    )


def test_a_module_that_breaks_inside_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "broken_extra.py").write_text("import absent_below\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="absent_below"):
        extras.load("broken_extra", "models")

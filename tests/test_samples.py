"""What no change of the code may change by accident: the names of runs, results, tickets, checkpoints.

`tests/samples/experiments.json` is the sample. `python -m tests.test_samples` writes it again, after a change
that is meant to give other numbers; test_recipes.py compares the runs of the recipes with it.
"""

import hashlib
import json
import shlex
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from supermask.cli import main
from supermask.cli.entry import parse
from supermask.cli.flags import read_config
from supermask.data import load_data
from supermask.experiments import EXPERIMENTS
from supermask.experiments.execution.context import Environment
from supermask.experiments.execution.run import execute
from supermask.experiments.execution.store import Store
from supermask.experiments.results import describe_machine
from supermask.experiments.spec import RunSpec, canonical_hash
from supermask.io import load_tree
from supermask.tickets.ticket import Ticket

SAMPLE = Path(__file__).parent / "samples" / "experiments.json"
LINES = (
    "compare --densities 0.5 0.1 --seeds 0 1 --methods dense edge-popup random-mask-frozen imp imp-rewind "
    "lr-rewind one-shot reinit random-mask shuffled-mask",
    "compare --densities 0.3 --seeds 3 --distribution erk --no-rescale "
    "--methods edge-popup concrete concrete-fine-tuned set rigl early-bird snip filters-l1 kept-signs",
    "search --method zhou --method-args amsgrad=true dynamic_rescale=false --density 0.2",
    "search --density 0.25 --distribution 1:4 --lr 0.05 --seed 7 --epochs 3.5 --warmup-epochs 1",
    "imp --rounds 3 --rewind-to 20 --criterion magnitude-increase --pruned init --seeds 0 5",
    "imp --rounds 2 --rewind lr --scope global --model conv-2 --model-args width=0.25 --amp bf16",
    "stability --orders 2 --seeds 0 --starts 0 0.1 --densities 0.5",
    "transfer --places digits digits:adam --seeds 0 --densities 0.5",
    "anatomy --methods edge-popup imp --densities 0.3 --seeds 0",
)
FINISHED = (
    "compare --seeds 0 --densities 0.5 --epochs 1 --methods dense edge-popup random-mask-frozen imp-rewind "
    "reinit snip --jobs 1 --threads 1 --device cpu --together 0"
)
TIMES = ("seconds", "machine", "command")


def read_sample() -> dict[str, Any]:
    """The committed sample."""
    return json.loads(SAMPLE.read_text())


def planned(line: str) -> tuple[RunSpec, ...]:
    """The runs of a command line, without its execution."""
    options = parse(shlex.split(line))
    experiment = EXPERIMENTS[options.command]
    config = read_config(experiment.config, options)
    return experiment.plan(config, load_data(config.data)).graph


def names_hash(graph: tuple[RunSpec, ...]) -> str:
    """One hash for the names of all runs of a plan, in their order."""
    return canonical_hash([spec.id for spec in graph])


def arithmetic() -> str:
    """What decides the last bits of a training on the CPU."""
    cpu = describe_machine("cpu", 1, 1)["cpu"]
    return f"torch {torch.__version__}, {cpu}, {torch.backends.cpu.get_cpu_capability()}"


def without_times(value: Any) -> Any:
    """A document without machine and times."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def tree_hash(tree: Any) -> str:
    """Hash of a checkpoint: every tensor and number, its times left out."""
    digest = hashlib.sha256()

    def update(value: Any) -> None:
        if isinstance(value, dict):
            for key in sorted(value, key=str):
                if key not in TIMES:
                    digest.update(f"{key}:".encode())
                    update(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                update(item)
        elif isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(value).encode())

    update(tree)
    return digest.hexdigest()[:16]


def finished(folder: Path) -> dict[str, Any]:
    """A whole comparison: its results, page, tickets, and a checkpoint in the middle of each kind of run."""
    assert main([*shlex.split(FINISHED), "--out", str(folder)]) == 0
    document = without_times(json.loads((folder / "results.json").read_text()))
    tickets = sorted((folder / "runs").glob("*/*.ticket"))
    return {
        "arithmetic": arithmetic(),
        "results": canonical_hash(document),
        "rows": [[row["method"], row["ticket_bytes"], row["test_accuracy"]] for row in document["rows"]],
        "files": sorted(path.name for path in folder.iterdir()),
        "tickets": {str(path.relative_to(folder / "runs")): Ticket.load(path).checksum() for path in tickets},
        "checkpoints": {spec.method: checkpoint(spec, folder) for spec in planned(FINISHED)[:2]},
    }


def checkpoint(spec: RunSpec, folder: Path) -> str:
    """Hash of the checkpoint of a run that was stopped after seven steps."""
    store = Store(folder / "stopped")

    def stop(step: int) -> None:
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(spec, store, Environment(checkpoint_seconds=0.0), stop)
    return tree_hash(load_tree(store.run(spec.id).checkpoint))


@pytest.mark.parametrize("line", LINES)
def test_a_command_line_plans_the_runs_it_always_planned(line):
    assert [spec.id for spec in planned(line)] == read_sample()["lines"][line]


def test_a_comparison_gives_the_results_it_always_gave(tmp_path):
    sample, found = read_sample()["finished"], finished(tmp_path)
    assert found.keys() == sample.keys() and found["files"] == sample["files"]
    assert found["tickets"].keys() == sample["tickets"].keys()
    assert [row[:1] for row in found["rows"]] == [row[:1] for row in sample["rows"]]
    if found["arithmetic"] != sample["arithmetic"]:
        pytest.skip(f"the sample's last bits are those of {sample['arithmetic']}")
    assert found == sample


def write_sample() -> None:
    """Write the sample anew."""
    from .test_recipes import RECIPES, name_of
    from .test_recipes import planned as planned_recipe

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        sample = {
            "lines": {line: [spec.id for spec in planned(line)] for line in LINES},
            "finished": finished(Path(folder)),
            "recipes": {name_of(path): names_hash(planned_recipe(path, patch)) for path in RECIPES},
        }
    SAMPLE.write_text(json.dumps(sample, indent=1) + "\n")


if __name__ == "__main__":
    write_sample()

"""Every shipped recipe is read, planned and started: on images of the right shape, for a few steps.

Planned at full size; what starts by default is an eighth as wide, and the slow tests start the real networks.
"""

import dataclasses
import re
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from supermask.cli.flags import read_config
from supermask.data import Dataset
from supermask.data.mapped import MappedImages
from supermask.experiments import EXPERIMENTS, ImpConfig, transfer
from supermask.experiments.execution import context
from supermask.experiments.execution.run import execute
from supermask.experiments.execution.store import Store
from supermask.experiments.imp import plan_imp
from supermask.experiments.spec import RunSpec
from supermask.experiments.theory import TheoryConfig
from supermask.models import list_models

from .test_samples import names_hash, read_sample

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "recipes"
RECIPES = sorted(path for path in FOLDER.glob("*/*.toml") if path.parent.name != "theory")
SHAPES = {
    "digits": (1_400, 1, 8),
    "mnist": (60_000, 1, 28),
    "cifar10": (50_000, 3, 32),
    "cifar100": (50_000, 3, 32),
    "imagenette": (9_469, 3, 128),
    "imagenet": (1_281_167, 3, 224),
}


def stand_in(name: str, image_size: int | None = None, count: int | None = None) -> Dataset:
    """Images of the shape of a data set, as many as it has or `count`, all of them the same ten."""
    full, channels, size = SHAPES[name]
    size = image_size or size
    pixels = torch.zeros(10, size, size, channels, dtype=torch.uint8)
    pixels[:, ::2, ::3] = 200
    labels = torch.arange(full if count is None else count) % 10
    train = MappedImages(pixels, labels, labels)
    test = MappedImages(pixels, torch.arange(10), torch.arange(10))
    classes = tuple(map(str, range(10)))
    mean, std = (0.5,) * channels, (0.25,) * channels
    return Dataset(name, train, test, classes, mean, std, known_fingerprint=f"{name}-{len(labels)}")


def test_there_are_recipes():
    assert len(RECIPES) >= 10


def planned(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunSpec, ...]:
    """The runs of a recipe, on a data set of the right size."""
    experiment = EXPERIMENTS[path.parent.name]
    config = read_config(experiment.config, Namespace(config=str(path)))
    monkeypatch.setattr(transfer, "dataset", lambda name, *_: stand_in(name, config.image_size))
    monkeypatch.setattr(context, "dataset", lambda *_: stand_in(config.data, config.image_size, count=40))
    monkeypatch.setattr(context, "EVALUATIONS", 1)
    return experiment.plan(config, stand_in(config.data, config.image_size)).graph


def started(spec: RunSpec, store: Store, **model_args: float) -> None:
    """A few steps of a run that needs no other: two, or as many as Gem-Miner's first freezing takes."""
    few = stand_in(spec.task.data, spec.task.image_size, count=40).fingerprint
    freezing = spec.method == "gem-miner" and "period" in spec.mask.options
    steps, batch = (int(spec.mask.options["period"]) + 2, 40) if freezing else (2, 4)
    arguments = {**spec.task.model_args, **model_args}
    task = dataclasses.replace(
        spec.task, data_hash=few, steps=steps, batch_size=batch, warmup_steps=0, model_args=arguments
    )
    result = execute(dataclasses.replace(spec, task=task, snapshots=()), store, context.Environment())
    assert 0 <= result["test_accuracy"] <= 1 and result["steps"] == steps


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_a_recipe_is_planned_and_its_searches_start(path, tmp_path, monkeypatch):
    graph = planned(path, monkeypatch)
    first = graph[0]
    assert f"{path.parent.name} --config recipes/{path.relative_to(FOLDER)}" in path.read_text()
    assert not first.needs and len({spec.id for spec in graph}) == len(graph)
    assert names_hash(graph) == read_sample()["recipes"][name_of(path)]
    if first.task.model in list_models():
        width = 0.125 * first.task.model_args.get("width", 1.0)
        searches = {spec.method: spec for spec in reversed(graph) if spec.kind == "search"}
        for spec in {first.method: first, **searches}.values():
            started(spec, Store(tmp_path), width=width)


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_a_recipe_starts_at_full_size(path, tmp_path, monkeypatch):
    started(planned(path, monkeypatch)[0], Store(tmp_path))


def test_published_protocols_say_what_was_reported_what_differs_and_what_it_costs():
    section = (ROOT / "docs" / "recipes.md").read_text().split("## Published protocols")[1]
    listed = set(re.findall(r"recipes/([\w/-]+)\.toml", section))
    assert len(listed) > 50
    for name in listed:
        header = (FOLDER / f"{name}.toml").read_text().split("\n\n")[0]
        facts = [f"# {fact}: " in header for fact in ("Published", "Deviations", "Cost")]
        assert all(facts) or "# No published protocol: " in header, name


def test_recipes_of_theory_can_be_read_and_one_is_the_defaults():
    for path in (FOLDER / "theory").glob("*.toml"):
        assert f"theory --config recipes/theory/{path.name}" in path.read_text()
        config = read_config(TheoryConfig, Namespace(config=str(path), out="x"))
        assert (config == TheoryConfig(out="x")) == (path.stem == "digits")


def test_published_numbers_of_steps():
    for name, steps in (
        ("mnist-lenet-300-100", 50_000),
        ("cifar10-conv-4", 25_000),
        ("cifar10-resnet-20", 62_400),
        ("imagenet-resnet-50", 112_590),
    ):
        config = read_config(ImpConfig, Namespace(config=str(FOLDER / "imp" / f"{name}.toml")))
        planned = plan_imp(config, stand_in(config.data)).graph[0].task.steps
        assert abs(planned / steps - 1) < 0.01

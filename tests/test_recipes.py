"""Every shipped recipe is read, planned and started: on images of the right shape, for two steps."""

import dataclasses
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from supermask.arguments import read_config
from supermask.data import Dataset
from supermask.data.mapped import MappedImages
from supermask.experiments import EXPERIMENTS, ImpConfig, execution, transfer
from supermask.experiments.execute import execute
from supermask.experiments.plan import plan_imp
from supermask.experiments.store import Store
from supermask.theory.run import TheoryConfig

FOLDER = Path(__file__).parent.parent / "recipes"
RECIPES = sorted(path for path in FOLDER.glob("*/*.toml") if path.parent.name != "theory")
SHAPES = {
    "digits": (1_400, 1, 8),
    "mnist": (60_000, 1, 28),
    "cifar10": (50_000, 3, 32),
    "imagenette": (9_469, 3, 128),
    "imagenet": (1_281_167, 3, 224),
}
SLOW = {"imagenette-resnet-50", "imagenette-vit-small", "imagenet-resnet-50", "imagenet-wide-resnet-50"}
MARKED = [pytest.param(path, marks=pytest.mark.slow if path.stem in SLOW else ()) for path in RECIPES]


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


@pytest.mark.parametrize("path", MARKED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recipe_runs(path, tmp_path, monkeypatch):
    experiment = EXPERIMENTS[path.parent.name]
    config = read_config(experiment.config, Namespace(config=str(path)))
    monkeypatch.setattr(transfer, "dataset", lambda name, *_: stand_in(name, config.image_size))
    graph = experiment.plan(config, stand_in(config.data, config.image_size)).graph
    assert f"{path.parent.name} --config recipes/{path.relative_to(FOLDER)}" in path.read_text()
    monkeypatch.setattr(execution, "dataset", lambda *_: stand_in(config.data, config.image_size, count=40))
    monkeypatch.setattr(execution, "EVALUATIONS", 1)
    first = graph[0]
    few = stand_in(config.data, config.image_size, count=40).fingerprint
    task = dataclasses.replace(first.task, data_hash=few, steps=2, batch_size=4, warmup_steps=0)
    short = dataclasses.replace(first, task=task, snapshots=())
    result = execute(short, Store(tmp_path), execution.Environment())
    assert 0 <= result["test_accuracy"] <= 1 and result["steps"] == 2


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

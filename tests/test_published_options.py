"""Options that published protocols need: decay at milestones, searches by other rules than their own."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from supermask.data import load_data
from supermask.experiments import CompareConfig
from supermask.experiments.compare.command import plan_compare
from supermask.experiments.config import ConfigError
from supermask.experiments.execution import context
from supermask.experiments.execution.context import Environment
from supermask.experiments.execution.run import execute
from supermask.experiments.execution.store import Store
from supermask.experiments.search import SearchConfig, plan_search
from supermask.models import create_model
from supermask.training.loop import Progress


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def searched(digits, **options):
    """The one search of a comparison of Gem-Miner."""
    config = CompareConfig(methods=("gem-miner",), densities=(0.2,), seeds=(0,), out="x", **options)
    return plan_compare(config, digits).rows[0]


def test_a_method_has_its_own_recipe_unless_told_otherwise(digits):
    assert searched(digits, search_lr=0.7).rule.optimizer == "adam"
    own = searched(digits, search_lr=0.7, search_weight_decay=0.0, momentum=0.5, own_recipes=False)
    assert dataclasses.asdict(own.rule) == {
        "optimizer": "sgd", "lr": 0.7, "momentum": 0.5, "nesterov": False, "weight_decay": 0.0,
    }  # fmt: skip
    assert own.mask.options == {}


def test_further_arguments_reach_the_search_and_are_checked(digits, tmp_path):
    found = searched(digits, search_args={"penalty": "1e-4", "period": 2}, epochs=4.0)
    assert found.mask.options == {"penalty": 1e-4, "period": 2}
    assert execute(found, Store(tmp_path), Environment())["steps"] == found.task.steps
    with pytest.raises(ConfigError, match=r"--search-args 'restore=no': restore takes true or false"):
        searched(digits, search_args={"restore": "no"})


def test_zhou_starts_where_it_is_asked_to_without_its_recipe(digits):
    config = CompareConfig(
        methods=("zhou",), densities=(0.5,), seeds=(0,), out="x", own_recipes=False, search_lr=0.1
    )
    (row,) = plan_compare(config, digits).rows
    assert row.density == 0.5 and row.weights.init == "signed_constant"


def test_the_rate_falls_by_the_decay_at_each_milestone(digits, tmp_path, monkeypatch):
    seen = {}

    def spy(model, optimizer, batches, schedule, **options):
        seen["factors"] = [schedule(step) for step in range(schedule.steps)]
        return Progress(1)

    monkeypatch.setattr(context, "fit", spy)
    options = {"schedule": "multistep", "milestones": (1.0, 2.0), "decay": 0.9, "epochs": 3.0}
    (spec,) = plan_search(SearchConfig(out="x", **options), digits).rows
    execute(spec, Store(tmp_path), Environment())
    per_epoch = spec.task.steps // 3
    assert seen["factors"] == [1.0] * per_epoch + [0.9] * per_epoch + [0.9**2] * per_epoch


@pytest.mark.parametrize("decay", [0.0, 1.5, float("nan")])
def test_a_decay_is_a_fraction(decay):
    with pytest.raises(ConfigError, match=r"--decay .*: take a fraction in"):
        SearchConfig(out="x", decay=decay)


def test_decay_by_a_tenth_is_the_same_run_as_before(digits):
    """A new field leaves old runs what they are."""
    config = SearchConfig(schedule="multistep", milestones=(5.0,), out="x")
    (spec,) = plan_search(config, digits).rows
    assert "decay" not in spec.as_dict()["task"]
    other = dataclasses.replace(config, decay=0.5)
    assert plan_search(other, digits).rows[0].id != spec.id


def test_conv_n_with_elus_and_with_norms_before_its_activations():
    model = create_model("conv-2", image_size=8, elu=True, batch_norm=True, affine=False).train()
    images = torch.randn(6, 3, 8, 8)

    def activated(x):
        return F.elu(F.batch_norm(x, None, None, training=True))

    conv1, conv2, fc1, fc2, fc3 = model.parameters()
    x = activated(F.conv2d(images, conv1, padding=1))
    x = F.max_pool2d(activated(F.conv2d(x, conv2, padding=1)), 2).flatten(1)
    expected = activated(activated(x @ fc1.T) @ fc2.T) @ fc3.T
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)

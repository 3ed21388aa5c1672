"""Filter pruning: scores in NumPy, masks, counts, and the smaller network against the masked one."""

import copy
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import supermask as sm
from supermask.cli.flags import read_config
from supermask.data import load_data
from supermask.experiments import CompareConfig, ConfigError
from supermask.experiments.compare.command import plan_compare
from supermask.experiments.execution.context import Environment
from supermask.experiments.execution.run import execute
from supermask.experiments.execution.store import Store
from supermask.masks import Mask, density, select
from supermask.prune import (
    apply_mask,
    filter_counts,
    filter_fractions,
    filter_layers,
    filter_mask,
    filter_scores,
    hold,
    shrink,
    weights_left,
)
from supermask.weights.roles import masked

IMAGE = 16
NETWORKS = {
    "lenet-300-100": {"width": 0.1},
    "conv-4": {"width": 0.25, "bias": True},
    "vgg-11": {"width": 0.1},
    "resnet-20": {"width": 0.5},
    "resnet-18-cifar": {"width": 0.1, "affine": False},
}


def network(name: str, image_size: int = IMAGE, **options: object) -> nn.Module:
    """A network with norms and biases that are not neutral, in evaluation mode."""
    torch.manual_seed(0)
    model = sm.create_model(name, image_size=image_size, **{**NETWORKS.get(name, {}), **options})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith(("running_mean", "running_var")):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return model.eval()


def example(image_size: int = IMAGE) -> Tensor:
    return torch.zeros(1, 3, image_size, image_size)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {info.name: info.tensor.detach() for info in masked(model)}


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights_of(model).items()}


def pruned(model: nn.Module, keep: object, image_size: int = IMAGE) -> Mask:
    return filter_mask(weights_of(model), filter_layers(model, example(image_size)), keep)


def cost(model: nn.Module, image_size: int = IMAGE) -> tuple[int, int]:
    """Parameters and FLOPs of one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(example(image_size).to(next(model.parameters())))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops()


def test_scores_are_the_l1_norms_of_the_filters():
    weight = torch.randn(5, 3, 3, 2)
    expected = np.abs(weight.numpy().astype(np.float64)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(filter_scores(weight).numpy(), expected, rtol=1e-14)


def test_the_mask_keeps_the_filters_of_largest_norm_and_what_reads_them():
    model = network("conv-4")
    weights = weights_of(model)
    mask = pruned(model, {"conv4.weight": 10})
    norms = np.abs(weights["conv4.weight"].double().numpy()).sum(axis=(1, 2, 3))
    kept = np.zeros(len(norms), dtype=bool)
    kept[np.argsort(-norms)[:10]] = True
    area = (IMAGE // 4) ** 2
    for name, own in mask.items():
        expected = np.ones(own.shape, dtype=bool)
        if name == "conv4.weight":
            expected[~kept] = False
        if name == "fc1.weight":  # behind the flattening, a filter is `area` neighbouring inputs
            expected[:, np.repeat(~kept, area)] = False
        np.testing.assert_array_equal(own.numpy(), expected)


def test_of_a_residual_block_only_the_first_convolution_loses_filters():
    """Li et al., section 3.3; neither the stem nor the shortcut nor the last layer does."""
    names = set(filter_layers(network("resnet-20"), example()))
    assert names == {f"stages.{stage}.{block}.conv1.weight" for stage in range(3) for block in range(3)}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_smaller_network_computes_what_the_masked_one_does(name):
    model = network(name).double()
    mask = pruned(model, 0.37)
    before = copy.deepcopy(model.state_dict())
    small = shrink(model, mask, example())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    apply_mask(model, mask)
    images = torch.randn(7, 3, IMAGE, IMAGE, dtype=torch.float64)
    torch.testing.assert_close(small(images), model(images), rtol=1e-10, atol=1e-10)
    (few, fast), (many, slow) = cost(small), cost(model)
    assert few < 0.75 * many and fast < 0.75 * slow
    left = sum(p.numel() for key, p in small.named_parameters() if key in mask)
    assert left == sum(int(m.sum()) for m in mask.values())


def test_images_of_odd_size_and_single_precision():
    model = network("conv-2", 21, width=0.25)
    small = shrink(model.train(), pruned(model, 0.5, 21), example(21))
    assert small.training and next(small.parameters()).dtype == torch.float32
    assert not hasattr(small, "supermask_factory")
    apply_mask(model, pruned(model, 0.5, 21))
    images = torch.randn(3, 3, 21, 21)
    torch.testing.assert_close(small(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.GELU(), nn.Softplus()])
def test_what_a_pruned_neuron_puts_out_is_read_by_nobody(activation):
    """Activations that do not map 0 to 0, and biases, leave the smaller network exact."""
    model = nn.Sequential(nn.Linear(6, 9), activation, nn.Linear(9, 7), activation, nn.Linear(7, 3)).double()
    inputs = torch.randn(5, 6, dtype=torch.float64)
    mask = filter_mask(weights_of(model), filter_layers(model, inputs), 0.5)
    small = shrink(model, mask, inputs)
    apply_mask(model, mask)
    torch.testing.assert_close(small(inputs), model(inputs), rtol=1e-12, atol=1e-12)
    assert [tuple(p.shape) for p in small.parameters() if p.dim() == 2] == [(4, 6), (4, 4), (3, 4)]


def test_norms_over_channels_and_grouped_convolutions_keep_their_layers_whole():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.GroupNorm(2, 4),
        nn.Conv2d(4, 6, 3),
        nn.Conv2d(6, 6, 3, groups=3),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 64, 10),
    )
    assert set(filter_layers(model, example())) == {"4.weight"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm/resnet18", "timm/densenet121", "timm/convnext_atto"])
def test_networks_of_timm_shrink(name):
    model = network(name, 32)
    mask = pruned(model, 0.5, 32)
    small = shrink(model, mask, example(32)).double()
    apply_mask(model, mask)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(small(images), model.double()(images), rtol=1e-6, atol=1e-7)
    assert cost(small, 32)[0] < 0.8 * cost(model, 32)[0]


def test_the_published_saving_of_vgg_16():
    """Li et al., table 1, VGG-16-pruned-A: half of conv1 and conv8 to conv13 go, −34.2% FLOPs, −64% params.

    Theirs has one more linear layer, of 512×512, which loses half of its inputs: 262,144 parameters before
    and 131,072 after.
    """
    model = network("vgg-16", 32)
    shapes = shapes_of(model)
    halved = {f"conv{index}.weight": shapes[f"conv{index}.weight"][0] // 2 for index in (1, *range(8, 14))}
    small = shrink(model, pruned(model, halved, 32), example(32))
    (few, fast), (many, slow) = cost(small, 32), cost(model, 32)
    assert 1 - fast / slow == pytest.approx(0.342, abs=0.0005)
    assert 1 - (few + 512 * 256) / (many + 512 * 512) == pytest.approx(0.64, abs=0.005)


@pytest.mark.parametrize("name", ["conv-4", "resnet-20"])
@pytest.mark.parametrize("wanted", [0.7, 0.35, 0.12])
def test_counts_come_as_near_to_a_density_of_weights_as_whole_filters_allow(name, wanted):
    model = network(name)
    layers, shapes = filter_layers(model, example()), shapes_of(model)
    counts = filter_counts(layers, shapes, wanted)
    reached = density(filter_mask(weights_of(model), layers, counts))
    for fraction in torch.linspace(0.01, 1, 150).tolist():
        other = density(filter_mask(weights_of(model), layers, fraction))
        assert abs(reached - wanted) <= abs(other - wanted)
    fractions = [count / layers[layer].filters for layer, count in counts.items()]
    assert max(fractions) - min(fractions) <= 2 / min(layer.filters for layer in layers.values())
    assert abs(reached - wanted) < 0.01


def test_the_whole_network_at_density_one_and_the_least_there_is():
    model = network("resnet-20")
    layers, shapes = filter_layers(model, example()), shapes_of(model)
    assert filter_counts(layers, shapes, 1.0) == {name: layer.filters for name, layer in layers.items()}
    least = density(filter_mask(weights_of(model), layers, dict.fromkeys(layers, 1)))
    assert filter_counts(layers, shapes, least) == dict.fromkeys(layers, 1)
    with pytest.raises(ValueError, match="would empty a layer"):
        filter_counts(layers, shapes, 0.9 * least)


def test_a_structured_mask_trains_under_hold_and_shrinks_afterwards():
    model = network("conv-2", width=0.1).train()
    mask = pruned(model, 0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    hold(optimizer, mask, model)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 3, IMAGE, IMAGE)).square().sum().backward()
        optimizer.step()
    assert not any(weight[~mask[name]].any() for name, weight in weights_of(model).items())
    small = shrink(model, mask, example())
    images = torch.randn(2, 3, IMAGE, IMAGE)
    torch.testing.assert_close(small(images), model(images), rtol=1e-4, atol=1e-4)


class AddsItsInput(nn.Module):
    """A sum with the image itself, which no graph of layers shows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3 * IMAGE**2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last((x + self.first(x)).flatten(1))


def test_refusals():
    model = network("lenet-300-100")
    layers, weights = filter_layers(model, example()), weights_of(model)
    with pytest.raises(ValueError, match=r"has 30 filters and cannot keep 0"):
        filter_mask(weights, layers, {"fc1.weight": 0})
    with pytest.raises(ValueError, match=r"fc3\.weight cannot lose filters; those that can are fc1"):
        filter_mask(weights, layers, {"fc3.weight": 5})
    with pytest.raises(ValueError, match=r"density must lie in \(0, 1\]"):
        filter_mask(weights, layers, 0.0)
    single = select(weights, {name: weight.numel() - 1 for name, weight in weights.items()})
    with pytest.raises(ValueError, match="no whole filter"):
        shrink(model, single, example())
    with pytest.raises(ValueError, match="not one of this network"):
        shrink(model, {"fc1.weight": torch.ones(3, 3, dtype=torch.bool)}, example())
    with pytest.raises(ValueError, match="no layer whose filters can go"):
        filter_layers(nn.Sequential(nn.Flatten(), nn.Linear(3 * IMAGE**2, 4)), example())
    with pytest.raises(ValueError, match="search finds no structured tickets"):
        sm.EdgePopup(model, density=0.5, lr=0.1, distribution="filters")


def test_a_sum_with_the_input_is_not_shrunk_into_something_else():
    model = AddsItsInput()
    mask = filter_mask(weights_of(model), filter_layers(model, example()), 0.5)
    with pytest.raises(ValueError, match="computes something else"):
        shrink(model, mask, example())


SHORT = {"epochs": 1, "batch_size": 256, "data": "digits", "methods": ("filters-l1", "filters-l1-reset")}


def test_the_rows_of_compare(tmp_path):
    config = CompareConfig(densities=(0.3,), seeds=(0,), out=str(tmp_path), **SHORT)
    plan, store = plan_compare(config, load_data("digits")), Store(tmp_path)
    results = {spec.id: execute(spec, store, Environment()) for spec in plan.graph}
    tuned, reset = plan.rows
    dense = store.run(tuned.mask.run).ticket().weights()
    for spec in (tuned, reset):
        assert results[spec.id]["density"] == pytest.approx(0.3, abs=0.005)
        mask = store.run(spec.id).ticket().mask()
        for name in ("fc1", "fc2"):
            norms = np.abs(dense[f"{name}.weight"].double().numpy()).sum(axis=1)
            kept = mask[f"{name}.weight"].any(1).numpy()
            assert norms[kept].min() > norms[~kept].max()
        model = sm.load(store.run(spec.id).ticket_path())
        images = torch.randn(4, 1, 8, 8)
        small = shrink(model, mask, images)
        torch.testing.assert_close(small(images), model(images), rtol=1e-4, atol=1e-5)
    assert results[tuned.id]["test_accuracy"] > results[reset.id]["test_accuracy"]


def test_a_density_that_would_empty_a_layer_is_refused_before_anything_trains():
    config = CompareConfig(densities=(0.5, 0.01), seeds=(0,), model="resnet-20", image_size=16, **SHORT)
    with pytest.raises(
        ConfigError,
        match=r"--methods .filters-l1.*: leave it out: density 0\.01, filters of resnet-20: .* empty a layer",
    ):
        plan_compare(config, load_data("digits", image_size=16))


@pytest.mark.parametrize(
    ("recipe", "saved"),
    [("vgg-16-filters", 0.64), ("resnet-56-filters-a", 0.094), ("resnet-56-filters-b", 0.137)],
)
def test_fractions_by_layer_save_what_the_paper_says(recipe, saved):
    """Li et al., table 1: parameters pruned of VGG-16-A, ResNet-56-A and -B."""
    path = Path(__file__).parent.parent / "recipes" / "compare" / f"cifar10-{recipe}.toml"
    config = read_config(CompareConfig, Namespace(config=str(path)))
    model = network(config.model, 32)
    layers, shapes = filter_layers(model, example(32)), shapes_of(model)
    counts = filter_fractions(layers, {name: float(share) for name, share in config.filters.items()})
    assert 1 - weights_left(layers, shapes, counts) == pytest.approx(saved, abs=0.004)


def test_fractions_by_layer_that_do_not_fit_are_refused():
    layers = filter_layers(network("resnet-20", 16), example(16))
    with pytest.raises(ValueError, match=r"'conv9' names no layer that can lose filters; those are stages"):
        filter_fractions(layers, {"conv9": 0.5})
    with pytest.raises(ValueError, match=r"the fraction of filters of 'stages\.\*' must lie in"):
        filter_fractions(layers, {"stages.*": 1.5})


def test_compare_takes_fractions_by_layer():
    def rows(**filters):
        config = CompareConfig(seeds=(0,), model="resnet-20", image_size=16, filters=filters, **SHORT)
        return plan_compare(config, load_data("digits", image_size=16)).rows

    rows_ = [row for row in rows(**{"stages.*.conv1": "0.5"}) if row.method == "filters-l1"]
    assert len(rows_) == 1 and 0.45 < rows_[0].density < 0.55
    assert {keep for name, keep in rows_[0].mask.keep.items() if name.startswith("stages.1")} == {16}
    with pytest.raises(ConfigError, match=r"--filters .*: 'fc9' names no layer"):
        rows(fc9=0.5)
    with pytest.raises(ConfigError, match=r"--filters .*half"):
        rows(conv1="half")

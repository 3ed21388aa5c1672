"""Dead units and multiply-adds, against networks in which both can be counted by hand."""

import pytest
import torch
from torch import nn

import supermask as sm
from supermask.analysis.units import layer_uses, multiply_adds


def dead_of(model: nn.Module, *batches: torch.Tensor) -> list[int | None]:
    return [use.dead for use in layer_uses(model, batches).values()]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_units_that_never_fire_are_dead(inplace, norm):
    first = nn.Linear(8, 50)
    behind = nn.BatchNorm1d(50) if norm else nn.Identity()
    with torch.no_grad():
        (behind.bias if norm else first.bias)[:20].fill_(-1e3)
        (behind.bias if norm else first.bias)[20:].fill_(10.0)
    model = nn.Sequential(first, behind, nn.ReLU(inplace), nn.Linear(50, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert dead_of(model, torch.randn(16, 8)) == [20, 0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


def test_a_unit_is_alive_if_one_example_of_one_batch_reaches_it():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    only_first, none = torch.tensor([[1.0, -1.0]]), torch.tensor([[-1.0, -1.0]])
    assert dead_of(model, none) == [2, 0]
    assert dead_of(model, none, only_first) == [1, 0]


def test_units_that_nothing_reads_are_dead_and_channels_are_units():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(2 * 16, 5)
    )
    with torch.no_grad():
        model[0].bias.fill_(5.0)
        model[2].weight[:, 1:3] = 0.0
    assert dead_of(model, torch.rand(3, 1, 8, 8)) == [2, 0, 0]


def test_networks_without_a_way_for_gradients_have_no_dead_units_to_report():
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.layer(inputs).detach()

    assert [use.units for use in layer_uses(Detached(), [torch.rand(2, 4)]).values()] == [4]


def test_a_layer_whose_weight_is_computed_counts_under_what_it_is_computed_from():
    """Sums of parallel weights, and weight_norm, whose weight is direction times length."""
    from torch.nn.utils.parametrizations import weight_norm

    from supermask.models import with_parallel_weights

    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    model[0].bias.data[:2] = -1e3
    with_parallel_weights(model, 3)
    weight_norm(model[2], "bias")  # a parameter that is no weight may be computed, too
    assert dead_of(model, torch.randn(16, 8)) == [2, 0]
    mask = {"0.weights": torch.rand(6, 24) < 0.5, "2.weights": torch.rand(3, 18) < 0.5}
    sums = [kept.unflatten(1, (3, -1)).any(dim=1) for kept in mask.values()]
    assert multiply_adds(model, mask, (8,)) == sum(int(kept.sum()) for kept in sums)
    normed = nn.Sequential(weight_norm(nn.Linear(8, 6)), nn.ReLU(), nn.Linear(6, 3))
    uses = layer_uses(normed, [torch.randn(16, 8)])
    assert list(uses) == ["0.parametrizations.weight.original1", "2.weight"]


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("lenet-300-100", (1, 28), 784 * 300 + 300 * 100 + 100 * 10),
        # 20 and 50 filters of 5×5 on 24×24 and 8×8 positions, then 800×500 and 500×10.
        ("lenet-5", (1, 28), 25 * 20 * 576 + 25 * 20 * 50 * 64 + 800 * 500 + 500 * 10),
    ],
)
def test_multiply_adds_of_known_networks(name, size, expected):
    channels, pixels = size
    model = sm.create_model(name, num_classes=10, in_channels=channels, image_size=pixels)
    assert multiply_adds(model, {}, (channels, pixels, pixels)) == expected


def test_only_kept_weights_count_each_as_often_as_it_is_used():
    conv, linear = nn.Conv2d(2, 4, 3, groups=2), nn.Linear(4 * 36, 10)
    model = nn.Sequential(conv, nn.Flatten(), linear)
    mask = {"0.weight": torch.zeros(4, 1, 3, 3, dtype=torch.bool)}
    mask["0.weight"].view(-1)[:7] = True
    assert multiply_adds(model, mask, (2, 8, 8)) == 7 * 36 + 1440
    assert multiply_adds(model, {}, (2, 8, 8)) == 36 * 36 + 1440


def test_shared_layers_and_attention_count_for_each_use():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.attention = nn.Linear(6, 6), nn.MultiheadAttention(6, 2, batch_first=True)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            tokens = self.layer(self.layer(inputs))
            return self.attention(tokens, tokens, tokens)[0]

    tokens = 5
    assert multiply_adds(Twice(), {}, (tokens, 6)) == 2 * tokens * 36 + tokens * (3 * 36 + 36)
    uses = layer_uses(Twice(), [torch.rand(2, tokens, 6)])
    assert uses["attention.in_proj_weight"].dead is None


def test_layers_of_an_unknown_kind_make_the_count_unknown():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(3, 4))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs @ self.weight.T

    assert multiply_adds(Own(), {"weight": torch.ones(3, 4, dtype=torch.bool)}, (4,)) is None


@pytest.mark.slow
def test_multiply_adds_of_resnet_50_are_those_that_torchvision_publishes():
    from torchvision.models import ResNet50_Weights

    model = sm.create_model("torchvision/resnet50", num_classes=1000, in_channels=3, image_size=224)
    published = ResNet50_Weights.IMAGENET1K_V2.meta["_ops"]
    assert multiply_adds(model, {}, (3, 224, 224)) / 1e9 == pytest.approx(published, abs=0.01)

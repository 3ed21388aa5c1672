"""Sign activations: their values, their gradient against calculus, and what remembers them."""

import pytest
import torch
from torch import nn

import supermask as sm
from supermask.models import binarize_activations, create_model
from supermask.models.binary import SignActivation


def quadratic(x: torch.Tensor) -> torch.Tensor:
    """Bi-Real Net's approximation of the sign, piece by piece."""
    pieces = torch.where(x < 0, 2 * x + x**2, 2 * x - x**2)
    return torch.where(x < -1, -1.0, torch.where(x > 1, 1.0, pieces))


def test_the_sign_forward_and_the_quadratic_backward():
    x = torch.cat([torch.linspace(-2, 2, 401, dtype=torch.float64), torch.tensor([-0.0, 1e9, -1e9])])
    x = x.requires_grad_()
    y = SignActivation()(x)
    assert torch.equal(y, torch.where(x >= 0, 1.0, -1.0).double())
    upstream = torch.randn(len(x), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (ours,) = torch.autograd.grad(y, x, upstream)
    (theirs,) = torch.autograd.grad(quadratic(x), x, upstream)
    assert torch.allclose(ours, theirs, atol=1e-12)
    # And the approximation has the published slopes: 2 at 0, 1 at ±1/2, 0 from ±1 on.
    (slope,) = torch.autograd.grad(SignActivation()(x).sum(), x)
    for at, expected in ((0.0, 2.0), (0.5, 1.0), (-0.5, 1.0), (1.5, 0.0), (-1.01, 0.0)):
        nearest = (x.detach() - at).abs().argmin()
        assert slope[nearest].item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_type_stays(dtype):
    x = torch.randn(7, dtype=dtype)
    assert SignActivation()(x).dtype == dtype


def test_every_activation_of_a_network_is_replaced():
    shared = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 4), shared, nn.Sequential(nn.Linear(4, 4), nn.ELU(), shared))
    assert binarize_activations(model) is model
    assert sum(isinstance(m, SignActivation) for _, m in model.named_modules(remove_duplicate=False)) == 3
    assert not any(isinstance(m, nn.ReLU | nn.ELU) for m in model.modules())
    assert set(model(torch.randn(2, 4)).unique().tolist()) <= {-1.0, 1.0}
    with pytest.raises(ValueError, match="no activation module to replace"):
        binarize_activations(nn.Linear(3, 3))


@pytest.mark.parametrize("name", ["conv-2", "timm/resnet18"])
def test_a_ticket_remembers_them(tmp_path, name):
    size = {"num_classes": 3, "in_channels": 1, "image_size": 32}
    model = sm.randomize_(create_model(name, binary_activations=True, **size))
    assert any(isinstance(module, SignActivation) for module in model.modules())
    search = sm.SEARCHES["biprop"](model, density=0.5, lr=0.1)
    twin = sm.load(search.ticket().save(tmp_path / "net.ticket"))
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(twin(x), model.eval()(x))
    late = binarize_activations(create_model(name, **size))
    assert late.supermask_factory == model.supermask_factory
    assert "binary_activations" not in create_model(name, **size).supermask_factory["args"]
    with pytest.raises(ValueError, match="true or false, not 1"):
        create_model(name, binary_activations=1, **size)

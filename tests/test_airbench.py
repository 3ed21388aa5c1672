"""The network of airbench: its layers against functional calls, its whitening against NumPy."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import supermask as sm
from supermask.models import create_model
from supermask.models.airbench import whitening_filters


def smooth_images(count: int, channels: int = 3, size: int = 32) -> torch.Tensor:
    """Images whose neighbouring pixels and channels are alike."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, channels, size + 2, size + 2, generator=generator)
    return F.avg_pool2d(images, 3, 1) + 0.3 * images.mean(1, keepdim=True)[:, :, 1:-1, 1:-1]


def test_weights_are_those_of_the_published_widths():
    with torch.device("meta"):
        model = create_model("airbench")
    widths = [24, 64, 256, 256]
    convolutions = sum(9 * (a * b + b * b) for a, b in pairwise(widths))
    weights = {name: p.numel() for name, p in model.named_parameters() if p.dim() > 1}
    assert sum(weights.values()) == convolutions + 256 * 10 == 1_970_176
    assert sum(p.numel() for p in model.parameters()) - sum(weights.values()) == 2 * (64 + 256 + 256)


def test_whitened_patches_are_uncorrelated_and_of_variance_one():
    images = smooth_images(300)
    filters = whitening_filters(images).double().numpy()
    array = images.double().numpy()
    shifted = [array[:, :, i : i + 31, j : j + 31] for i in (0, 1) for j in (0, 1)]
    patches = np.stack(shifted, axis=2).reshape(300, 12, -1).transpose(1, 0, 2).reshape(12, -1)
    moments = patches @ patches.T / patches.shape[1]
    outputs = filters[:12].reshape(12, 12) @ moments @ filters[:12].reshape(12, 12).T
    eigenvalues = np.linalg.eigvalsh(moments)[::-1]
    np.testing.assert_allclose(outputs, np.diag(eigenvalues / (eigenvalues + 5e-4)), atol=1e-5)
    assert np.abs(moments - np.diag(np.diag(moments))).max() > 0.05  # they were correlated before
    np.testing.assert_array_equal(filters[12:], -filters[:12])


def test_the_network_computes_what_the_paper_describes():
    model = create_model("airbench", width=0.125, num_classes=7)
    model.look_at(smooth_images(50))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1, generator=generator)
    images = smooth_images(8)
    state = model.state_dict()
    x = F.gelu(F.conv2d(images, whitening_filters(smooth_images(50))))
    for block in range(3):
        for index in (1, 2):
            x = F.conv2d(x, state[f"blocks.{block}.conv{index}.weight"], padding=1)
            x = F.max_pool2d(x, 2) if index == 1 else x
            x = F.batch_norm(x, None, None, training=True)
            x = F.gelu(x + 8 * state[f"blocks.{block}.norm{index}.bias"].view(-1, 1, 1))
    expected = F.max_pool2d(x, 3).flatten(1) @ state["fc.weight"].T / 9
    torch.testing.assert_close(model.train()(images), expected)
    assert expected.shape == (8, 7)


def test_shifts_learn_sixty_four_times_as_fast():
    model = create_model("airbench", width=0.0625)
    images, labels = smooth_images(16), torch.arange(16) % 10
    norm = model.blocks[2].norm2
    seen = {}
    norm.register_forward_hook(lambda module, args, out: seen.setdefault("out", out).retain_grad())
    F.cross_entropy(model(images), labels).backward()
    wanted = 64 * seen["out"].grad.sum((0, 2, 3))  # gradient of a plain shift
    torch.testing.assert_close(8 * norm.bias.grad, wanted)


def test_the_whitening_survives_a_new_draw_and_a_ticket(tmp_path):
    images = smooth_images(20)
    model = create_model("airbench", width=0.0625)
    model.look_at(images)
    sm.randomize_(model, seed=3)
    search = sm.EdgePopup(model, density=0.5, lr=0.1)
    F.cross_entropy(model(images), torch.arange(20) % 10).backward()
    search.step()
    search.ticket().save(tmp_path / "t.ticket")
    loaded = sm.load(tmp_path / "t.ticket")
    assert torch.equal(loaded.whitening.weight, whitening_filters(images))
    assert "whitening.weight" not in search.mask and len(search.mask) == 7
    torch.testing.assert_close(loaded.eval()(images), model.eval()(images))


def test_until_images_were_shown_filters_copy_pixels():
    model = create_model("airbench", width=0.0625)
    images = smooth_images(2)
    out = model.whitening(images)
    assert torch.equal(out[:, 0], images[:, 0, :31, :31]) and torch.equal(out[:, 11], images[:, 2, 1:, 1:])
    assert torch.equal(out[:, 12:], -out[:, :12])


@pytest.mark.parametrize("size", [9, 28, 32, 40])
def test_other_images_give_logits(size):
    model = create_model(
        "airbench", width=0.0625, in_channels=1, image_size=size, shift=False, logit_scale=1.0
    )
    assert model(torch.zeros(2, 1, size, size)).shape == (2, 10)
    assert all(p.dim() > 1 for p in model.parameters())


def test_logits_are_scaled():
    images = smooth_images(4)
    torch.manual_seed(0)
    small = create_model("airbench", width=0.0625)
    plain = create_model("airbench", width=0.0625, logit_scale=1.0)
    plain.load_state_dict(small.state_dict())
    torch.testing.assert_close(plain(images), 9 * small(images))
    assert math.isclose(small.logit_scale, 1 / 9)

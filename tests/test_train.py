"""The loop: schedules, history, evaluation, interruption at any step."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import supermask as sm
from supermask.io import DamagedFileError
from supermask.training.loop import (
    Checkpoint,
    DivergedError,
    Schedule,
    estimate_norm_statistics,
    evaluate,
    fit,
)


def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(8, 1, 8, 8, generator=generator)
    return images, (images.mean(dim=(1, 2, 3)) > 0).long()


class Dropping(nn.Module):
    """A network whose training draws from torch's generator."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 2)
        )

    def forward(self, x):
        return self.layers(x)


def test_schedules():
    cosine = Schedule("cosine", 100, warmup=10)
    assert [cosine(s) for s in (0, 4, 9)] == [0.1, 0.5, 1.0]
    assert cosine(10) == 1.0 and cosine(55) == pytest.approx(0.5) and cosine(100) == 0.0
    assert cosine(99) == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))
    linear = Schedule("linear", 100, warmup=20)
    assert [linear(s) for s in (0, 19, 20, 60)] == [0.05, 1, 1, 0.5]
    assert [linear(s) for s in (99, 100, 500)] == pytest.approx([1 / 80, 0, 0])
    steps = Schedule("multistep", 160, milestones=(80, 120))
    assert [steps(s) for s in (0, 79, 80, 119, 120, 159)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert Schedule("constant", 5)(3) == 1.0
    with pytest.raises(ValueError, match="'exponential'"):
        Schedule("exponential", 5)


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_fit_is_the_plain_loop(clip, label_smoothing):
    model = sm.randomize_(Dropping(), seed=0)
    model.requires_grad_(True)
    twin = copy.deepcopy(model)
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    seen = []
    progress = fit(
        model,
        optimizer,
        batches,
        steps=12,
        schedule=Schedule("cosine", 12),
        clip=clip,
        label_smoothing=label_smoothing,
        on_step=seen.append,
    )
    torch.manual_seed(0)
    other = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(other, 12)
    losses = []
    for step in range(12):
        other.zero_grad()
        inputs, labels = batches(step)
        loss = F.cross_entropy(twin(inputs), labels, label_smoothing=label_smoothing)
        loss.backward()
        if clip is not None:
            assert torch.nn.utils.clip_grad_norm_(twin.parameters(), clip) > clip
        other.step()
        scheduler.step()
        losses.append(loss.item())
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert seen == list(range(1, 13)) and progress.step == 12
    assert progress.history[-1]["train_loss"] == pytest.approx(sum(losses) / 12, rel=1e-5)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_clipping_acts_on_unscaled_gradients():
    def first_step(amp: str) -> list[torch.Tensor]:
        model = sm.randomize_(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), "kaiming_normal", seed=0)
        optimizer = torch.optim.SGD(model.requires_grad_(True).parameters(), lr=1.0)
        before = [p.detach().clone() for p in model.parameters()]
        # A bound far above the norm must change nothing, though the scaled gradients exceed it.
        fit(model, optimizer, batches, steps=1, amp=amp, clip=50.0)
        return [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]

    for plain, scaled in zip(first_step("none"), first_step("fp16"), strict=True):
        assert torch.allclose(plain, scaled, atol=2e-3) and plain.abs().max() > 0.05


def make(kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = sm.randomize_(Dropping(), "kaiming_normal", seed=0)
    if kind == "search":
        return model, sm.EdgePopup(model, density=0.5, lr=0.1, momentum=0.9)
    model.requires_grad_(True)
    rule = torch.optim.Adam if kind == "adam" else torch.optim.SGD
    return model, rule(model.parameters(), lr=0.01, **({} if kind == "adam" else {"momentum": 0.9}))


class Stop(Exception):
    pass


@pytest.mark.parametrize("kind", ["search", "sgd", "adam"])
@pytest.mark.parametrize("amp", ["none", "bf16", "fp16", "pure-bf16"])
@pytest.mark.parametrize("stop_at", [1, 7, 16])
def test_an_interrupted_training_ends_with_the_same_bits(tmp_path, kind, amp, stop_at):
    def run(path, stop=None):
        model, optimizer = make(kind)
        torch.manual_seed(5)

        def on_step(step):
            if step == stop:
                raise Stop

        progress = fit(
            model,
            optimizer,
            batches,
            steps=17,
            schedule=Schedule("cosine", 17),
            amp=amp,
            evaluation=lambda: evaluate(model, [batches(1000)], amp),
            evaluate_every=4,
            on_step=on_step,
            checkpoint=Checkpoint(path, seconds=0.0),
        )
        return model, progress

    with pytest.raises(Stop):
        run(tmp_path / "a", stop=stop_at)
    torch.rand(100)  # whatever happens between
    resumed, progress = run(tmp_path / "a")
    whole, reference = run(tmp_path / "b")
    assert progress.history == reference.history and len(progress.history) == 5
    for a, b in zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"nonsense")
    model, optimizer = make("sgd")
    with pytest.raises(DamagedFileError, match=r"checkpoint\.safetensors"):
        fit(model, optimizer, batches, steps=3, checkpoint=Checkpoint(path))
    assert path.read_bytes() == b"nonsense"


def test_evaluate_counts_every_image():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([2.0, 1.0, 0.0]))

        def forward(self, x):
            return self.logits.expand(len(x), 3)

    model = Constant()
    labels = [torch.tensor([0, 1, 0]), torch.tensor([2])]
    result = evaluate(model, [(torch.zeros(len(y), 1), y) for y in labels])
    log_sum = math.log(math.exp(2) + math.exp(1) + 1)
    assert result["accuracy"] == 0.5
    assert result["loss"] == pytest.approx(log_sum - (2 + 1 + 2 + 0) / 4)
    assert model.training
    with pytest.raises(ValueError, match="the split is empty"):
        evaluate(model, [])


def test_divergence_is_an_error():
    model, _ = make("sgd")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e30)
    with pytest.raises(DivergedError, match="lower lr"):
        fit(model, optimizer, batches, steps=20)


def test_norm_statistics_are_estimated_without_training():
    model, _ = make("search")
    before = {name: p.clone() for name, p in model.named_parameters()}
    estimate_norm_statistics(model, batches, 50)
    x = torch.cat([batches(step)[0] for step in range(40, 50)])
    activations = model.layers[1](model.layers[0](x))
    assert torch.allclose(model.layers[2].running_mean, activations.mean(0), atol=0.3)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_unknown_amp_is_refused():
    model, optimizer = make("sgd")
    with pytest.raises(ValueError, match="'fp8'"):
        fit(model, optimizer, batches, steps=1, amp="fp8")

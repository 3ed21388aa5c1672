"""Many masks on one network: the gradient of the mixture, inference, files, and the example script."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import supermask as sm
from supermask.tickets.superposition import Superposition

from .test_examples_text import example as example


def task_batch(task: int, step: int, count: int = 64) -> tuple[Tensor, Tensor]:
    """Inputs that live in the task's own coordinates; the label is which of two of them is larger."""
    generator = torch.Generator().manual_seed(1000 * task + step)
    x = torch.zeros(count, 24)
    x[:, 6 * task : 6 * task + 6] = torch.randn(count, 6, generator=generator)
    return x, (x[:, 6 * task] > x[:, 6 * task + 1]).long()


def trained(model: nn.Module, tasks: int = 4, steps: int = 80) -> Superposition:
    superposition = Superposition(model)
    for task in range(tasks):
        superposition.reset()
        search = sm.EdgePopup(model, density=0.5, lr=0.2, momentum=0.9, seed=task)
        model.train()
        for step in range(steps):
            search.zero_grad()
            x, y = task_batch(task, step)
            F.cross_entropy(model(x), y).backward()
            search.step()
        assert superposition.add(search.ticket()) == task
    return superposition


def net(outputs: int = 6, norm: bool = False) -> nn.Module:
    middle = [nn.BatchNorm1d(64)] if norm else []
    return nn.Sequential(
        nn.Linear(24, 64, bias=False), *middle, nn.ReLU(), nn.Linear(64, outputs, bias=False)
    )


@pytest.fixture(scope="module")
def superposition() -> Superposition:
    return trained(sm.randomize_(net(), seed=5, density=0.5))


@pytest.mark.parametrize("objective", ["entropy", "superfluous"])
def test_the_gradient_is_that_of_the_mixture_in_alpha(superposition, objective):
    # The paper's form: α is a leaf, and the masks are mixed inside the network.
    x, _ = task_batch(2, 999)
    weights = {draw.name: draw.weight(5) for draw in superposition._record.draws}
    masks = [ticket.mask() for ticket in superposition.tickets]
    alpha = torch.full((4,), 0.25, requires_grad=True)
    first, second = (
        weights[name] * sum(alpha[i] * masks[i][name].float() for i in range(4)) for name in weights
    )
    logits = F.linear(F.relu(F.linear(x, first)), second)
    if objective == "entropy":
        p = logits.softmax(1)
        value = -(p * p.log()).sum(1).mean()
    else:
        m = (torch.arange(6) < 2).float()
        value = ((logits * m).detach() + logits * (1 - m)).exp().sum(1).log().mean()
    (expected,) = torch.autograd.grad(value, alpha)
    before = [p.clone() for p in superposition.model.parameters()]
    gradient = superposition.task_gradient(x, objective=objective, real_outputs=2)
    torch.testing.assert_close(gradient, expected.double(), rtol=1e-4, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(before, superposition.model.parameters(), strict=True))


@pytest.mark.parametrize("method", ["one-shot", "binary"])
@pytest.mark.parametrize("objective", ["entropy", "superfluous"])
def test_tasks_are_inferred_and_solved(superposition, objective, method):
    for task in range(4):
        x, y = task_batch(task, 999)
        found = superposition.infer_task(x, objective=objective, method=method, real_outputs=2)
        assert found == task
        accuracy = (superposition.activate(found)(x).argmax(1) == y).float().mean()
        assert accuracy > 0.85


def test_the_entropies_are_those_of_each_mask_alone(superposition):
    x, _ = task_batch(3, 999)
    expected = []
    for task in range(4):
        p = superposition.activate(task)(x).detach().double().softmax(1)
        expected.append(float(-(p * p.clamp(min=1e-300).log()).sum(1).mean()))
    assert superposition.entropies(x).tolist() == pytest.approx(expected, rel=1e-4)
    assert superposition.infer_task(x, method="exhaustive") == 3


def test_a_superposition_comes_back_from_its_files(superposition, tmp_path):
    paths = superposition.save(tmp_path / "masks")
    assert [path.name for path in paths] == [f"task-{i:04d}.ticket" for i in range(4)]
    assert superposition.mask_bytes == 4 * (24 * 64 + 64 * 6) // 8
    again = Superposition.load(tmp_path / "masks", net())
    x, _ = task_batch(1, 999)
    assert torch.equal(again.task_gradient(x), superposition.task_gradient(x))
    assert torch.equal(again.activate(3)(x), superposition.activate(3)(x))
    with pytest.raises(FileNotFoundError, match=r"no task-\*\.ticket"):
        Superposition.load(tmp_path)


def test_a_known_network_needs_no_model_to_load(tmp_path):
    model = sm.randomize_(sm.create_model("lenet-300-100", image_size=4, in_channels=1, bias=False), seed=1)
    superposition = Superposition(model)
    superposition.add(sm.EdgePopup(superposition.reset(), density=0.3, lr=0.1).ticket())
    superposition.save(tmp_path)
    again = Superposition.load(tmp_path)
    x = torch.randn(3, 1, 4, 4)
    assert torch.equal(again.activate(0)(x), superposition.activate(0)(x))


def test_norm_statistics_belong_to_their_task_and_survive_inference():
    superposition = trained(sm.randomize_(net(norm=True), seed=0, density=0.5), tasks=2, steps=20)
    model = superposition.activate(1)
    norm = model[1]
    second = norm.running_mean.clone()
    superposition.infer_task(task_batch(0, 999)[0])
    assert torch.equal(norm.running_mean, second) and norm.training
    superposition.activate(0)
    assert not torch.equal(norm.running_mean, second)
    superposition.reset()
    assert not norm.running_mean.any()


def test_what_is_no_mask_on_the_network_is_refused(superposition):
    with pytest.raises(ValueError, match="draw the model by randomize_"):
        Superposition(net())
    other = sm.EdgePopup(sm.randomize_(net(), seed=6, density=0.5), density=0.5, lr=0.1)
    with pytest.raises(ValueError, match=r"seed 6, init signed_constant\) is not a mask on this network"):
        superposition.add(other.ticket())
    with pytest.raises(IndexError, match="the tasks are 0 to 3"):
        superposition.activate(4)
    empty = Superposition(sm.randomize_(net()))
    with pytest.raises(ValueError, match="no task yet"):
        empty.infer_task(task_batch(0, 0)[0])
    with pytest.raises(ValueError, match="one-shot, binary, exhaustive, not 'greedy'"):
        superposition.infer_task(task_batch(0, 0)[0], method="greedy")
    with pytest.raises(ValueError, match="entropy, superfluous, not 'margin'"):
        superposition.infer_task(task_batch(0, 0)[0], objective="margin")
    with pytest.raises(ValueError, match="has no 'superfluous' form"):
        superposition.infer_task(task_batch(0, 0)[0], method="exhaustive", objective="superfluous")
    with pytest.raises(ValueError, match="between 1 and 5, not None"):
        superposition.infer_task(task_batch(0, 0)[0], objective="superfluous")


@pytest.mark.parametrize("tasks", ["split", "permuted"])
def test_the_example_runs_for_a_few_steps(example, tmp_path, tasks):
    arguments = ["--data", "digits", "--tasks", tasks, "--steps", "60", "--out", str(tmp_path)]
    result = example("superposition").main(arguments)
    assert result["about"]["mask bytes"] > 0 and len(list(tmp_path.glob("*.ticket"))) == 5
    rows = {entry["method"]: entry for entry in result["rows"]}
    assert len(rows) == 9 and rows["task given"]["accuracy"] > 0.8
    best = rows["exhaustive, entropy, 128 images"]
    assert best["inferred"] > 0.5 and best["accuracy"] <= rows["task given"]["accuracy"] + 1e-9
    assert (tmp_path / "superposition.json").is_file()


def test_tasks_of_the_example_may_have_more_classes(example, tmp_path):
    arguments = ["--data", "digits", "--task-classes", "5", "--steps", "2", "--out", str(tmp_path)]
    result = example("superposition").main(arguments)
    assert result["about"]["task"] == "split digits, 2 tasks"
    assert len(list(tmp_path.glob("*.ticket"))) == 2

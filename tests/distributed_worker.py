"""What the ranks of tests/test_distributed.py do: `torchrun tests/distributed_worker.py FOLDER PART …`.

Every part leaves `<part>-<rank>` in the folder; the tests compare those of the ranks with each other and with
what one process computes by the same functions.
"""

import os
import signal
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import supermask as sm
from supermask.cli import entry as cli
from supermask.data import Images, iterate_eval
from supermask.distributed import BatchShard, Ranks, RanksDifferError, assert_same_masks, joined
from supermask.distributed.sync_batchnorm import synced_norms
from supermask.io import load_tree, save_tree
from supermask.masks import random_mask
from supermask.prune import EarlyBird, Rewire
from supermask.training.loop import Checkpoint, Schedule

STEPS = 12


class Net(nn.Module):
    """Convolution, norm, dropout, linear."""

    def __init__(self, norm: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.hidden = nn.Linear(96, 20)
        self.output = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.norm(self.conv(x))), 2).flatten(1)
        return self.output(torch.relu(self.hidden(self.drop(x))))


def network(norm: bool = True, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> nn.Module:
    return sm.randomize_(Net(norm, dropout).to(dtype), "kaiming_normal", seed=3)


def batch(step: int, size: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(size, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x.to(dtype), (x.mean(dim=(1, 2, 3)) * 20).long().remainder(3)


def images() -> Images:
    """More than two batches of them, and not a whole number."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (23, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.randint(3, (23,), generator=generator))


def measured(model: nn.Module, ranks: Ranks) -> dict[str, float]:
    dtype = next(model.parameters()).dtype
    turn = (ranks.rank, ranks.size)
    return sm.evaluate(model, iterate_eval(images(), 5, (0.5,), (0.2,), dtype=dtype, turn=turn), ranks=ranks)


def half_masks(model: nn.Module) -> dict[str, Tensor]:
    """Random masks of density 0.5 of all matrices and kernels."""
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if p.dim() > 1}
    counts = {name: model.get_parameter(name).numel() // 2 for name in shapes}
    return random_mask(shapes, counts, seed=1)


def trained(model: nn.Module, optimizer: Any, ranks: Ranks, size: int, **options: Any) -> dict[str, Any]:
    """Train to step `STEPS`, and what is left of it; `size` is that of the whole batch."""
    share, dtype = BatchShard.of(size, ranks), next(model.parameters()).dtype
    progress = sm.fit(
        ranks.wrap(model),
        optimizer,
        lambda step: share.take(batch(step, size, dtype)),
        steps=STEPS,
        schedule=Schedule("cosine", STEPS),
        evaluation=lambda: measured(model, ranks),
        evaluate_every=5,
        share=share,
        **options,
    )
    left = {"model": dict(model.state_dict()), "history": progress.history}
    if isinstance(optimizer, sm.Search):
        left |= {"scores": optimizer.scores, "masks": optimizer.mask}
    return left


# Parts: each gives what a rank saves.


def own_loop(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """A loop of one's own around `DistributedDataParallel`, with two small batches to a step."""
    model = network(norm=False, dtype=torch.float64)
    whole = nn.parallel.DistributedDataParallel(model) if ranks.size > 1 else model
    search = sm.EdgePopup(whole, density=0.3, lr=0.1, momentum=0.9)
    share = BatchShard.of(8)
    for step in range(STEPS):
        for half in (0, 1):
            inputs, labels = share.take(batch(2 * step + half, 8, torch.float64))
            waiting = half == 0 and ranks.size > 1
            with whole.no_sync() if waiting else nullcontext():
                (F.cross_entropy(whole(inputs), labels) / 2).backward()
        search.step()
        search.zero_grad()
        assert_same_masks(search, step)
    return {"scores": search.scores, "masks": search.mask}


def every_search(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Every registered search, with generators of torch that differ from rank to rank."""
    found = {}
    for method, cls in sm.SEARCHES.items():
        torch.manual_seed(100 + ranks.rank)
        model = network()
        adam = cls.recipe.get("optimizer") == "adam"
        options = {"base": "adam"} if adam else {"momentum": 0.9}
        search = cls(model, density=0.4, lr=0.1, seed=5, **options)
        search.plan(STEPS, 4)
        left = trained(model, search, ranks, 8, objective=getattr(search, "objective", None))
        with search.evaluating():
            left["evaluated"] = measured(model, ranks)
        search.settle()
        found[method] = {**left, "settled": dict(model.state_dict())}
    return found


def every_hold(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Weights trained under masks that stay and masks that move."""

    def hold(optimizer: torch.optim.Optimizer, model: nn.Module) -> Any:
        return sm.hold(optimizer, half_masks(model), model)

    def rewire(rule: str, optimizer: torch.optim.Optimizer, model: nn.Module) -> Any:
        return Rewire(optimizer, half_masks(model), model, rule=rule, every=3, until=10)

    def early_bird(units: str, optimizer: torch.optim.Optimizer, model: nn.Module) -> Any:
        return EarlyBird(optimizer, model, density=0.5, units=units, every=1, until=7)

    holds = {"hold": hold}
    holds |= {rule: partial(rewire, rule) for rule in ("set", "rigl")}
    holds |= {units: partial(early_bird, units) for units in ("weights", "channels")}
    found = {}
    for name, put in holds.items():
        torch.manual_seed(100 + ranks.rank)
        model = network().requires_grad_(True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        handle = put(optimizer, model)
        left = trained(model, optimizer, ranks, 8, clip=1.0)
        found[name] = {**left, "masks": handle.mask}
    return found


def curve(kind: str, size: int, synced: bool, ranks: Ranks, folder: Path) -> dict[str, Any]:
    """A search, a dense training or one under a mask, in float64, to be compared with one process."""
    model = network(norm=synced, dtype=torch.float64)
    if kind == "search":
        optimizer: Any = sm.EdgePopup(model, density=0.3, lr=0.1, momentum=0.9)
    else:
        model.requires_grad_(True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        if kind == "hold":
            sm.hold(optimizer, half_masks(model), model)
    with synced_norms(model) if synced and ranks.size > 1 else nullcontext():
        return trained(model, optimizer, ranks, size, clip=0.5, label_smoothing=0.1)


def imp_rounds(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Three trainings and the tickets of two rounds between them, in float64, rewound to step 2."""
    model = network(norm=False, dtype=torch.float64).requires_grad_(True)
    whole, share = ranks.wrap(model), BatchShard.of(15, ranks)

    def train(model: nn.Module, mask: Any, *, start: int, on_step: Any) -> list[dict[str, float]]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        held = sm.hold(optimizer, mask, model)
        progress = sm.fit(
            whole,
            optimizer,
            lambda step: share.take(batch(step, 15, torch.float64)),
            start=start,
            steps=STEPS,
            clip=0.5,
            evaluation=lambda: measured(model, ranks),
            evaluate_every=5,
            on_step=on_step,
            share=share,
        )
        held.remove()
        return progress.history

    found: dict[str, Any] = {"history": []}
    for round in sm.imp(model, train, rounds=2, rate=0.3, rewind_to=2):
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        found[f"round {round.round}"] = {"masks": round.mask, "weights": weights}
        found["history"] += round.result
    return found


def bf16(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """A search and a training under a mask, in autocast to bfloat16."""
    found = {}
    for kind in ("search", "hold"):
        torch.manual_seed(100 + ranks.rank)
        model = network()
        if kind == "search":
            optimizer: Any = sm.EdgePopup(model, density=0.3, lr=0.1, momentum=0.9)
        else:
            model.requires_grad_(True)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
            handle = sm.hold(optimizer, half_masks(model), model)
        with synced_norms(model) if ranks.size > 1 else nullcontext():
            found[kind] = trained(model, optimizer, ranks, 15, amp="bf16", clip=1.0)
        if kind == "hold":
            found[kind]["masks"] = handle.mask
    return found


def die(ranks: Ranks) -> None:
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def lost(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Rank 1 dies while the gradients of a small network are summed.

    The others ignore torchrun's request to end, so that they have to notice by themselves. Neither
    `DistributedDataParallel` nor an optimizer: they import for longer than all of this takes.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    model, share = network().requires_grad_(True), BatchShard.of(9, ranks)
    for step in range(STEPS):
        inputs, labels = share.take(batch(step, 9))
        share.weigh(F.cross_entropy(model(inputs), labels)).backward()
        if step == 3:
            die(ranks)
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad = ranks.sum(parameter.grad) / ranks.size
    return dict(model.state_dict())


def lost_training(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Rank 1 dies in the middle of `fit`."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    model = network()
    search = sm.EdgePopup(model, density=0.3, lr=0.1)
    return trained(model, search, ranks, 9, on_step=lambda step: die(ranks) if step == 3 else None)


def statistics(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """One step of a network whose norms are not synchronized."""
    model = network(dtype=torch.float64)
    share = BatchShard.of(7, ranks)
    search = sm.EdgePopup(model, density=0.3, lr=0.1)
    data = share.take(batch(0, 7, torch.float64))
    sm.fit(ranks.wrap(model), search, lambda step: data, steps=1, share=share)
    return {"rows": [share.rows.start, share.rows.stop], "model": dict(model.state_dict())}


def corrupted(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """One bit of one score, on one rank."""
    model = network()
    search = sm.EdgePopup(model, density=0.3, lr=0.1)

    def touch(step: int) -> None:
        if step == 3 and ranks.rank == 1:
            score = search.scores["hidden.weight"].view(-1).view(torch.int32)
            score[17] ^= 1

    found = {}
    try:
        trained(model, search, ranks, 8, on_step=touch)
    except RanksDifferError as error:
        found["fit"] = str(error)
    other = sm.EdgePopup(network(), density=0.3, lr=0.1)
    assert_same_masks(other)
    if ranks.rank == 1:
        mask = other.mask["conv.weight"].view(-1)
        mask[:2] = ~mask[:2]
    try:
        assert_same_masks(other, step=8)
    except RanksDifferError as error:
        found["own"] = str(error)
    return found


class Stop(Exception):
    pass


def resumed(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """A training with dropout, stopped and gone on with, and the same without a stop."""

    def run(name: str, stop: int | None = None) -> dict[str, Any]:
        model = network(dropout=0.5)
        search = sm.EdgePopup(model, density=0.3, lr=0.1, momentum=0.9)
        torch.manual_seed(9)
        ranks.seed_generator(9)

        def on_step(step: int) -> None:
            if step == stop:
                raise Stop

        checkpoint = Checkpoint(folder / f"resumed-{name}", seconds=0.0)
        left = trained(model, search, ranks, 8, on_step=on_step, checkpoint=checkpoint)
        return {**left, "generator": torch.get_rng_state()}

    try:
        run("stopped", stop=8)
    except Stop:
        torch.rand(7)
    return {"stopped": run("stopped"), "whole": run("whole")}


def moved(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """A float64 search that goes on from the checkpoint of whoever began it, if there is one."""
    return search_with_checkpoint(ranks, folder / "moved")


def search_with_checkpoint(ranks: Ranks, path: Path, stop: int | None = None) -> dict[str, Any]:
    model = network(norm=False, dtype=torch.float64)
    search = sm.EdgePopup(model, density=0.3, lr=0.1, momentum=0.9)
    first: list[int] = []

    def on_step(step: int) -> None:
        first.append(step)
        if step == stop:
            raise Stop

    left = trained(model, search, ranks, 12, on_step=on_step, checkpoint=Checkpoint(path, seconds=0.0))
    return {**left, "first": first[0]}


def left_behind(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """The beginning of a search, for others to go on with."""
    try:
        search_with_checkpoint(ranks, folder / "begun", stop=8)
    except Stop:
        return {"step": load_tree(folder / "begun")["progress"]["step"]}
    raise AssertionError


def commands(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """The command line: one that works, and wrong ones."""
    quick = ["--epochs", "2", "--batch-size", "64", "--threads", "1", "--out"]
    lines = {
        "search": ["search", "--density", "0.5", *quick, folder / "search"],
        "jobs": ["search", "--jobs", "2", *quick, folder / "jobs"],
        "batch": ["search", *quick, folder / "batch", "--batch-size", "1"],
        "theory": ["theory", "--out", folder / "theory"],
        "flag": ["search", "--densty", "0.5"],
    }
    cli.GRACE = 0.0
    found = {}
    for name, line in lines.items():
        try:
            found[name] = cli.main([str(word) for word in line])
        except SystemExit as error:
            found[name] = error.code
    return found


PARTS = {
    "own_loop": own_loop,
    "every_search": every_search,
    "every_hold": every_hold,
    "search": partial(curve, "search", 16, False),
    "search_uneven": partial(curve, "search", 15, False),
    "search_synced": partial(curve, "search", 15, True),
    "dense": partial(curve, "dense", 15, False),
    "dense_synced": partial(curve, "dense", 15, True),
    "hold": partial(curve, "hold", 15, False),
    "hold_synced": partial(curve, "hold", 15, True),
    "imp_rounds": imp_rounds,
    "bf16": bf16,
    "lost": lost,
    "lost_training": lost_training,
    "statistics": statistics,
    "corrupted": corrupted,
    "resumed": resumed,
    "moved": moved,
    "left_behind": left_behind,
    "commands": commands,
}


def main(folder: Path, parts: list[str]) -> None:
    torch.set_num_threads(1)
    with joined("cpu") as ranks:
        for part in parts:
            save_tree(folder / f"{part}-{ranks.rank}", PARTS[part](ranks, folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

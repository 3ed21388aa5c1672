"""Evaluation of images in a mapped file: on the device once, or read ahead, and by how many threads."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from supermask.data import Loader, Selection, iterate_eval, load_data
from supermask.data.mapped import MappedImages
from supermask.data.read_ahead import ReadAhead, place
from supermask.experiments import SearchConfig
from supermask.experiments.execution import context
from supermask.experiments.execution.context import Environment, RunContext
from supermask.experiments.execution.store import Store
from supermask.experiments.search import plan_search
from tests.test_data_cache import resident_copy, wait_for, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "animals")


@pytest.mark.parametrize(("threads", "readers"), [(1, 2), (3, 3), (40, 8)])
def test_there_are_as_many_readers_as_threads(
    folder: Path, monkeypatch: pytest.MonkeyPatch, threads: int, readers: int
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    images = load_data(str(folder), image_size=10).train
    loader = Loader(images, batch_size=9, seed=2, mean=[0.5] * 3, std=[0.5] * 3, stream=True)
    before = set(threading.enumerate())
    for step in range(8):
        loader.batch(step)
    begun = [thread.name for thread in set(threading.enumerate()) - before if "read-ahead" in thread.name]
    assert loader._read_ahead is not None and loader._read_ahead._workers == readers
    assert 1 <= len(begun) <= readers


@pytest.mark.parametrize("turn", [(0, 1), (0, 2), (1, 2), (2, 3)])
def test_evaluation_reads_ahead_the_same_batches(folder: Path, turn: tuple[int, int]) -> None:
    dataset = load_data(str(folder), image_size=8, selection=Selection(stored_size=10))
    part = torch.tensor([17, 3, 4, 0, 9, 8, 12, 1, 2, 16, 7])
    arguments = {"batch_size": 3, "mean": dataset.mean, "std": dataset.std, "turn": turn, "image_size": 8}
    expected = list(iterate_eval(resident_copy(dataset).train.take(part), **arguments))
    assert len(expected) == len(range(turn[0], 4, turn[1]))
    for stream in (True, False, None):
        found = list(iterate_eval(dataset.train.take(part), stream=stream, **arguments))
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    assert list(iterate_eval(dataset.train.take(part[:0]), stream=True, **arguments)) == []


def test_evaluation_reads_no_further_than_the_end_and_ends_its_threads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = load_data(str(folder), image_size=10).test
    begun = []
    begin = ReadAhead._begin
    monkeypatch.setattr(
        ReadAhead, "_begin", lambda self, step, part: begun.append(step) or begin(self, step, part)
    )
    batches = iterate_eval(images, 2, [0.5] * 3, [0.5] * 3, stream=True)
    next(batches)
    assert begun == [0, 1, 2], "two are read ahead"
    list(batches)
    assert begun == [0, 1, 2]
    before = set(threading.enumerate())
    batches = iterate_eval(images, 2, [0.5] * 3, [0.5] * 3, stream=True)
    next(batches)
    assert set(threading.enumerate()) - before
    batches.close()
    wait_for(lambda: not set(threading.enumerate()) - before)


def test_images_that_fit_are_put_on_the_device_and_not_read_again(folder: Path) -> None:
    images = load_data(str(folder), image_size=10).test
    assert place(images, "cpu") == (images, False), "on a CPU nothing is copied"
    assert place(images, "meta", True) == (images, True)
    there, streamed = place(images, "meta")
    assert there is place(images, "meta")[0] and there.pixels.device.type == "meta" and not streamed
    object.__setattr__(images, "stored", None)  # who reads now fails
    for _ in range(2):
        batches = list(iterate_eval(there, 4, [0.5] * 3, [0.5] * 3, "meta", stream=streamed))
        assert [tuple(pixels.shape) for pixels, _ in batches] == [(4, 3, 10, 10), (2, 3, 10, 10)]


@pytest.mark.parametrize(("stream", "copies", "passes"), [("auto", 2, 0), ("never", 2, 0), ("always", 0, 5)])
def test_a_run_puts_what_it_evaluates_on_the_device_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: str, copies: int, passes: int
) -> None:
    settings = {"model": "lenet-300-100", "epochs": 1, "batch_size": 4, "val_fraction": 0.25, "image_size": 8}
    config = SearchConfig(data=str(folder), out="unused", stream=stream, **settings)
    data = load_data(config.data, image_size=config.image_size)
    spec, store = plan_search(config, data).graph[0], Store(tmp_path / "store")
    run = RunContext(spec, store, Environment(stream=stream), store.run(spec.id), lambda _: None)
    run.environment = replace(run.environment, device="meta")
    copied, read = [], []
    copy, ahead = MappedImages.to, ReadAhead.__init__
    monkeypatch.setattr(
        MappedImages, "to", lambda self, device: copied.append(len(self)) or copy(self, device)
    )
    monkeypatch.setattr(
        ReadAhead,
        "__init__",
        lambda self, images, *rest, **more: read.append(len(images)) or ahead(self, images, *rest, **more),
    )
    counted = lambda model, batches, *_: {"images": sum(len(labels) for _, labels in batches)}  # noqa: E731
    monkeypatch.setattr(context, "evaluate", counted)
    for _ in range(4):
        assert run.evaluate(run.val_split) == {"images": len(run.val_split)}
    assert run.evaluate(run.data.test) == {"images": 6}
    assert len(copied) == copies and len(read) == passes


@pytest.mark.cuda
def test_evaluation_gives_the_same_bits_on_the_gpu_from_there_and_read_ahead(folder: Path) -> None:
    images = load_data(str(folder), image_size=10).train
    expected = list(iterate_eval(images, 4, [0.5] * 3, [0.5] * 3))
    for stream in (True, False):
        there, streamed = place(images, "cuda", stream)
        assert streamed == stream
        found = list(iterate_eval(there, 4, [0.5] * 3, [0.5] * 3, "cuda", stream=streamed))
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.equal(ours[0].cpu(), theirs[0]) and torch.equal(ours[1].cpu(), theirs[1])

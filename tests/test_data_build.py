"""What the build of a cache tells while it lasts, and how much of it is in memory."""

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

from supermask.data import build, load_data
from supermask.data.progress import progress
from tests.test_data_cache import write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "animals")


def test_without_a_terminal_there_is_a_line_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    now = 1000.0
    with progress(Console(file=io.StringIO(), force_terminal=False), lambda: now) as begin:
        advance = begin("decoding pets", 90)
        for _ in range(9):
            now += 25
            advance(5)
        advance = begin("adding up", 60)
        now += 59.9
        advance(1)
        now += 0.1
        advance(2)
    assert capsys.readouterr() == (
        "",
        "decoding pets: 15 of 90 images\ndecoding pets: 30 of 90 images\n"
        "decoding pets: 45 of 90 images\nadding up: 3 of 60 images\n",
    )


def test_on_a_terminal_there_is_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    shown = io.StringIO()
    with progress(Console(file=shown, force_terminal=True, width=100), lambda: 1e9) as begin:
        begin("decoding pets", 90)(90)
        begin("adding up", 60)(45)
    assert "adding up" in shown.getvalue() and "45/60" in shown.getvalue()
    assert capsys.readouterr() == ("", "")


def test_a_build_tells_how_far_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("supermask.data.progress.SECONDS", 0)
    load_data(str(folder), image_size=12)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("decoding animals: ") and "decoding animals: 24 of 24 images" in lines
    # 18 to train on, twice, and 6 to test on.
    assert lines[-1] == "adding up: 42 of 42 images"


def test_little_of_a_cache_is_in_memory_while_it_is_added_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_data(str(folder), image_size=12)
    monkeypatch.setattr(build, "_PIECE", 5 * 12 * 12 * 3 + 1)
    monkeypatch.setattr(build, "_PIECES", 2)
    held, most, sizes = 0, 0, set()
    each, read = build._Builder._each, build._Builder._read

    def counted(self: object, images: range, shape: tuple[int, ...]) -> torch.Tensor:
        nonlocal held, most
        held, most = held + 1, max(most, held + 1)
        sizes.add(len(images))
        return read(self, images, shape)

    def taken(self: object, *arguments: object) -> Iterator[object]:
        nonlocal held
        for result in each(self, *arguments):
            time.sleep(0.02)  # so that more would be read meanwhile, if more were begun
            held -= 1
            yield result

    monkeypatch.setattr(build._Builder, "_read", counted)
    monkeypatch.setattr(build._Builder, "_each", taken)
    again = load_data(str(folder), image_size=12, cache=str(folder.parent / "other"))
    assert (again.mean, again.std, again.fingerprint) == (whole.mean, whole.std, whole.fingerprint)
    # The one that was just taken is counted too.
    assert most <= 3 and sizes == {5, 3, 1}

"""Folders of images from the command line: what is chosen of them reaches runs, identities and tickets."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supermask.cli import main
from supermask.data import load_data
from supermask.experiments import ConfigError, SearchConfig
from supermask.experiments.search import plan_search
from supermask.tickets.ticket import Ticket

SMALL = {"model": "lenet-300-100", "epochs": 1, "batch_size": 4, "val_fraction": 0.25, "out": "unused"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUPERMASK_CACHE", str(tmp_path / "caches"))
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for name in ("ant", "bee", "cat"):
            place = tmp_path / "animals" / split / name
            place.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{index}.png")
    return tmp_path / "animals"


def identity(folder: Path, **changes: object) -> str:
    config = SearchConfig(**SMALL, data=str(folder), **changes)
    data = load_data(config.data, image_size=config.image_size, selection=config.selection)
    return plan_search(config, data).graph[0].id


def test_what_changes_the_content_changes_the_run_and_nothing_else_does(folder: Path) -> None:
    plain = identity(folder, image_size=8)
    for changes in (
        {"stored_size": 8},
        {"allow_corrupt": True},
        {"cache": "elsewhere"},
        {"stream": "always"},
    ):
        assert identity(folder, image_size=8, **changes) == plain
    others = [
        identity(folder, image_size=8, **changes)
        for changes in ({"stored_size": 10}, {"classes": ("ant", "bee")}, {"per_class_fraction": 0.5})
    ]
    assert len({plain, *others}) == 4
    # A run that is specified without any of it is specified as before there was any of it.
    config = SearchConfig(**SMALL, data=str(folder), image_size=8)
    spec = plan_search(config, load_data(config.data, image_size=8)).graph[0]
    assert "selection" not in spec.as_dict()["task"]


def test_wrong_selections_are_wrong_calls(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"--stored-size 7: take at least --image-size 8"):
        SearchConfig(**SMALL, image_size=8, stored_size=7)
    with pytest.raises(ConfigError, match=r"--per-class-fraction 0"):
        SearchConfig(**SMALL, per_class_fraction=0)
    call = ["search", "--out", str(tmp_path / "out"), "--image-size", "8", "--data", str(folder)]
    assert main([*call, "--classes", "bug"]) == 2
    assert "has no class bug" in capsys.readouterr().err
    (folder / "val" / "ant" / "1.png").write_bytes(b"nothing")
    assert main(call) == 1
    assert "1 of 36 images are corrupt" in capsys.readouterr().err


def test_a_ticket_of_some_classes_is_evaluated_on_them(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "train" / "cat" / "1.png").write_bytes(b"nothing")
    (tmp_path / "classes.txt").write_text("cat\nbee\n")
    call = [
        "search",
        "--out",
        str(tmp_path / "out"),
        "--data",
        str(folder),
        "--augment",
        "resized-crop-colour",
    ]
    call += ["--image-size", "8", "--stored-size", "10", "--classes", str(tmp_path / "classes.txt")]
    call += ["--per-class-fraction", "0.9", "--allow-corrupt", "--epochs", "1", "--batch-size", "4"]
    accuracies = []
    for stream in ("always", "never"):
        assert main([*call, "--stream", stream, "--model", "conv-2"]) == 0
        document = json.loads((tmp_path / "out" / "results.json").read_text())
        accuracies.append(document["rows"][0]["test_accuracy"])
    assert accuracies[0] == accuracies[1]
    (path,) = (tmp_path / "out").glob("runs/*/final.ticket")
    provenance = Ticket.load(path).provenance
    assert provenance["selection"] == {
        **{"stored_size": 10, "classes": ["bee", "cat"], "per_class_fraction": 0.9, "allow_corrupt": True}
    }
    assert provenance["corrupt_images_left_out"] == 1
    capsys.readouterr()
    (tmp_path / "classes.txt").unlink()
    assert main(["eval", str(path), "--json"]) == 2
    assert "a ticket alone does not choose the folder" in capsys.readouterr().err
    assert main(["eval", str(path), "--data", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 8 and found["accuracy"] == accuracies[0]


def test_streams_train_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    tickets = []
    for stream in ("always", "never"):
        out = tmp_path / stream
        call = ["search", "--out", str(out), "--data", str(folder), "--image-size", "8", "--stream", stream]
        assert (
            main(
                [
                    *call,
                    "--model",
                    "lenet-300-100",
                    "--augment",
                    "resized-crop",
                    "--epochs",
                    "2",
                    "--batch-size",
                    "8",
                ]
            )
            == 0
        )
        (path,) = out.glob("runs/*/final.ticket")
        tickets.append(path.read_bytes())
    assert tickets[0] == tickets[1]

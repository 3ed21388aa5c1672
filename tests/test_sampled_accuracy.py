"""The accuracy of a sampled supermask in `results.json`: the mean over ten networks, computed in NumPy."""

import json

import numpy as np
import pytest

from supermask.cli import main
from supermask.data import load_data
from supermask.search.zhou import Zhou


def test_sampled_accuracy_is_the_mean_over_ten_sampled_networks(tmp_path, monkeypatch):
    samples, networks = Zhou.samples, []

    def watched(self, count=10):
        for number in samples(self, count):
            networks.append([p.detach().numpy().copy() for p in self.masked_parameters.values()])
            yield number

    monkeypatch.setattr(Zhou, "samples", watched)
    flags = ["--method", "zhou", "--epochs", "1", "--seed", "3", "--out", str(tmp_path)]
    assert main(["search", *flags]) == 0
    (row,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    data = load_data("digits")
    images = data.test.pixels.numpy().reshape(len(data.test), -1) / 255
    inputs = (images - np.array(data.mean)) / np.array(data.std)
    accuracies = []
    for first, second, third in networks:
        hidden = np.maximum(np.maximum(inputs @ first.T, 0) @ second.T, 0)
        accuracies.append(((hidden @ third.T).argmax(1) == data.test.labels.numpy()).mean())
    assert len(accuracies) == 10 and len(set(accuracies)) > 1
    assert row["sampled_accuracy"] == pytest.approx(np.mean(accuracies), abs=1e-9)
    # Ten draws of one distribution: no two alike, and most weights kept now and then.
    drawn = np.stack([first.ravel() != 0 for first, _, _ in networks])
    assert len({mask.tobytes() for mask in drawn}) == 10
    assert ((drawn.mean(0) > 0) & (drawn.mean(0) < 1)).mean() > 0.5

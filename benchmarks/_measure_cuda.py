"""What the benchmarks on a GPU share: calls timed as replays of CUDA graphs, and the machine's own limits."""

import shutil
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from supermask.training.cuda_graphs import generator_put_back

Call = Callable[[], Any]
LEAST_CALLS = 24
"""Calls that one graph holds at least, so that launching it counts for little, unless they are long."""
LONG_US = 4000
"""A graph that takes as many microseconds is long enough."""


class Graph:
    """Some calls, in order, recorded once; the same ones again until there are enough of them."""

    def __init__(self, calls: Sequence[Call]) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for call in calls:
                call()
            times = [Plain(calls[0]).microseconds() for _ in range(3)]
        torch.cuda.current_stream().wait_stream(stream)
        wanted = min(LEAST_CALLS, int(LONG_US / min(times)) + 1)
        # Kept: a graph holds addresses, not the weights and indices that its calls read.
        self._calls = list(calls) * -(-wanted // len(calls))
        self.calls = len(self._calls)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for call in self._calls:
                call()

    def microseconds(self) -> float:
        """Time of one call in one replay."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        self.graph.replay()
        end.record()
        end.synchronize()
        return 1e3 * start.elapsed_time(end) / self.calls


class Plain:
    """A call that no graph can hold, timed with what its launches cost."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def microseconds(self) -> float:
        """Time of one call."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        self.call()
        end.record()
        end.synchronize()
        return 1e3 * start.elapsed_time(end)


def graph_or_plain(call: Call) -> Graph | Plain:
    """`call` in a graph, or by itself if it waits for the device, which no graph can."""
    try:
        with generator_put_back(torch.cuda.current_device()):
            return Graph([call])
    except RuntimeError:
        torch.cuda.synchronize()
        return Plain(call)


def interleave(graphs: Mapping[str, Graph], rounds: int) -> dict[str, dict[str, float]]:
    """Replay the graphs in turns, so that a change of the clocks meets all of them alike.

    Returns:
        For each graph the median and the quartiles of the time of a call, in microseconds. Slow graphs are
        replayed less often: half a second each, and three times at least.
    """
    times: dict[str, list[float]] = {name: [] for name in graphs}
    wanted = {
        name: min(rounds, max(3, int(5e5 / (graph.calls * graph.microseconds()))))
        for name, graph in graphs.items()
    }
    for done in range(rounds):
        for name, graph in graphs.items():
            if done < wanted[name]:
                times[name].append(graph.microseconds())
    return {name: _summary(values) for name, values in times.items()}


def _summary(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return {"median_us": median, "q1_us": low, "q3_us": high, "replays": len(values)}


def limits() -> dict[str, float]:
    """What this GPU reaches now: bytes per second of a copy, bfloat16 operations per second of a product."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    a, b = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    graphs = {"copy": Graph([lambda: target.copy_(source)]), "product": Graph([lambda: a @ b])}
    times = {name: result["median_us"] * 1e-6 for name, result in interleave(graphs, 20).items()}
    return {
        "bytes_per_second": 2 * source.numel() / times["copy"],
        "operations_per_second": 2 * 8192**3 / times["product"],
    }


def clocks() -> str | None:
    """The driver and the clocks of the moment, as nvidia-smi tells them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = "--query-gpu=driver_version,clocks.sm,clocks.mem,temperature.gpu"
    result = subprocess.run([tool, query, "--format=csv,noheader"], capture_output=True, text=True)
    return result.stdout.strip() or None

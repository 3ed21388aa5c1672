"""What the benchmarks share: interleaved timing, a description of the machine, results as JSON."""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _measure_cuda import Graph, graph_or_plain
from _plot import plot_timings

from supermask import ops
from supermask.experiments.results import cpu_name

RESULTS = Path(__file__).parent / "results"


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""What time is taken by. That of the processor counts all threads of this process and none of another's,
which suits one thread on a machine that does other work."""


def interleave(
    candidates: Mapping[str, Callable[[], Any]],
    seconds: float = 10.0,
    rounds: int = 200,
    device: str = "cpu",
    turn: float = 0.0,
    clock: str = "wall",
) -> dict[str, dict[str, float]]:
    """Time the candidates in turns, so that a change of the machine's speed meets all of them alike.

    On a GPU a candidate is timed as a CUDA graph that repeats it, and as its plain call where a graph cannot
    hold it; `graphed` says which.

    Args:
        candidates: Name → what to time.
        seconds: When to stop, once each has had five turns.
        rounds: Turns of each at most.
        device: `cpu` or `cuda`.
        turn: Seconds that a candidate goes on for in its turn, on a CPU; its first two calls, which find the
            cache as the one before left it, do not count then. At 0 a turn is one call.
        clock: One of `CLOCKS`, on a CPU.

    Returns:
        For each candidate the median, the quartiles and the number of its timings, in milliseconds.
    """
    if device == "cuda":
        return _interleave_graphs(candidates, seconds, rounds)
    for call in candidates.values():
        call()
        call()
    now = CLOCKS[clock]
    take = partial(_turn, seconds=turn, now=now) if turn else partial(_milliseconds, now=now)
    return take_turns({name: partial(take, call) for name, call in candidates.items()}, seconds, rounds)


def take_turns(
    candidates: Mapping[str, Callable[[], float]], seconds: float, rounds: int = 200
) -> dict[str, dict[str, float]]:
    """Summaries of what the candidates return, in milliseconds, asked in turns; see `interleave`."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    deadline = time.perf_counter() + seconds
    while _go_on(times, deadline, rounds):
        for name, candidate in candidates.items():
            times[name].append(candidate())
    return {name: _summary(values) for name, values in times.items()}


def _go_on(times: Mapping[str, list[float]], deadline: float, rounds: int) -> bool:
    done = len(next(iter(times.values())))
    return done < rounds and (time.perf_counter() < deadline or done < 5)


def _interleave_graphs(
    candidates: Mapping[str, Callable[[], Any]], seconds: float, rounds: int
) -> dict[str, dict[str, float]]:
    graphs = {name: graph_or_plain(call) for name, call in candidates.items()}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for graph in graphs.values():
        graph.microseconds()
    deadline = time.perf_counter() + seconds
    while _go_on(times, deadline, rounds):
        for name, graph in graphs.items():
            times[name].append(1e-3 * graph.microseconds())
    return {
        name: {**_summary(values), "graphed": isinstance(graphs[name], Graph)}
        for name, values in times.items()
    }


def _turn(call: Callable[[], Any], seconds: float, now: Callable[[], float]) -> float:
    """The median of the calls of one turn, in milliseconds."""
    call()
    call()
    times, deadline = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < deadline:
        times.append(_milliseconds(call, now))
    return statistics.median(times)


def _milliseconds(call: Callable[[], Any], now: Callable[[], float]) -> float:
    start = now()
    call()
    return 1e3 * (now() - start)


def _summary(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return {"median_ms": median, "q1_ms": low, "q3_ms": high, "timings": len(values)}


def ratio(results: Mapping[str, Mapping[str, float]], one: str, other: str) -> float:
    """How many times the median of `other` that of `one` is."""
    return results[one]["median_ms"] / results[other]["median_ms"]


MOST = 1.05
"""How many times as long as what it replaces something of ours may take."""


def check_not_slower(cases: Mapping[str, float], most: float = MOST) -> None:
    """Fail the script where ours takes longer than it may.

    Args:
        cases: What was measured → how many times as long as what it replaces ours takes.
        most: What is allowed.

    Raises:
        SystemExit: Some take longer; it names them.
    """
    slower = [f"{case}: {factor:.2f}" for case, factor in cases.items() if factor > most]
    if slower:
        raise SystemExit(f"ours takes more than {most} times as long for\n  " + "\n  ".join(slower))


def machine(threads: int, device: str = "cpu") -> dict[str, Any]:
    """Where and with what the numbers were taken; nothing that names the host."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "kernels": ops.backends(device)["select"],
    }


def arguments(description: str, parser: argparse.ArgumentParser | None = None) -> argparse.Namespace:
    """The command line of every benchmark; also fixes the number of threads and the cores they run on.

    A benchmark with flags of its own gives a `parser` that has them.
    """
    parser = parser or argparse.ArgumentParser()
    parser.description = description
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="of torch, each on a core (all cores)"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each comparison (10)")
    parser.add_argument("--out", type=Path, help="directory of the JSON file; printed only by default")
    parsed = parser.parse_args()
    torch.set_num_threads(parsed.threads)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: parsed.threads])
    return parsed


def choosing() -> argparse.ArgumentParser:
    """A parser with `--cases`, which `chosen` and `with_earlier` heed, and `--clock` for `interleave`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: time of the processor")
    parser.add_argument(
        "--cases", nargs="+", metavar="WORDS", help="only cases whose names contain one of these"
    )
    return parser


def with_earlier(
    options: argparse.Namespace,
    name: str,
    of: Mapping[str, Any],
    label: Callable[[Any], str],
    group: str = "rows",
) -> list[Any]:
    """The rows of `of`, and those that an earlier run of other cases left in the file, in the order of `of`.

    Args:
        options: Those of `arguments`; with `cases`, words that choose some, what is left in the file stays.
        name: The name of the results.
        of: Name of every case that there is → its row, or None where it was not measured now.
        label: What a row's case is called.
        group: The list of the file that has them.
    """
    path = options.out and options.out / f"{name}.json"
    earlier = {}
    if getattr(options, "cases", None) and path and path.exists():
        earlier = {label(row): row for row in json.loads(path.read_text()).get(group, [])}
    rows = [row or earlier.get(case) for case, row in of.items()]
    return [row for row in rows if row]


def chosen(options: argparse.Namespace, case: str) -> bool:
    """Whether a case is to be measured: its name contains one of the words of `--cases`, if any."""
    words = getattr(options, "cases", None)
    return not words or any(each in case for each in words)


def name_here(name: str) -> str:
    """The name of results: `_avx2` marks those of a machine that ATEN_CPU_CAPABILITY limits to AVX2."""
    return f"{name}_avx2" if os.environ.get("ATEN_CPU_CAPABILITY") == "avx2" else name


def report(
    name: str,
    options: argparse.Namespace,
    rows: list[dict[str, Any]],
    label: Callable[[Mapping[str, Any]], str] | None = None,
    **more: Any,
) -> None:
    """Print the rows and, if asked, leave them in `<out>/<name>.json`, with `more` beside them.

    Given labels of rows, plot the timings too.
    """
    for row in rows:
        print(json.dumps(row))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        about = machine(options.threads, options.device)
        content = {"benchmark": name, "machine": about, **more, "rows": rows}
        (options.out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
        if label:
            cpu = f"{about['cpu']}, threads: {about['threads']}"
            place = cpu if options.device == "cpu" else about["gpu"]
            title = f"{name.replace('_', ' ')}\n{place}, torch {about['torch']}"
            plot_timings(options.out / f"{name}.png", title, rows, label)

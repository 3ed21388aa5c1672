"""Options of the searches, one at a time, on MNIST: what each is worth against its method's own recipe.

    python benchmarks/variants.py --data-root DIR

Every variant is one `supermask search` for each seed, with the settings and seeds of
`recipes/compare/mnist-searches.toml`, measured on the test images once, at its end. The numbers go to
`benchmarks/results/mnist-variants.json`. Interrupted, the same command goes on. `--short` only asks whether
every variant runs: on digits, for a moment, with one seed; its numbers stay in the folder of the runs.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from supermask.io import read_json, write_json

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "mnist-variants.json"
SEEDS = (3, 4, 5)
COMMON = "--data mnist --model lenet-300-100 --val-fraction 0 --epochs 10 --batch-size 128".split()
SHORT = "--data digits --model lenet-300-100 --val-fraction 0 --epochs 0.5 --batch-size 128".split()
VARIANTS: tuple[tuple[str, str, str], ...] = (
    ("edge-popup", "", "layer by layer, by the magnitude of the scores"),
    ("edge-popup", "--method-args ranking=raw", "by the scores themselves (equation 6 of the paper)"),
    ("edge-popup", "--distribution global", "one ranking over all layers"),
    ("edge-popup", "--distribution erk", "densities of layers by the Erdős–Rényi kernel"),
    ("edge-popup", "--distribution epl", "equal counts in all layers"),
    ("edge-popup", "--method-args density_schedule=cubic", "from dense to the density by a cubic"),
    (
        "edge-popup",
        "--method-args density_schedule=cubic initial_density=0.5",
        "from half of the weights to the density by a cubic",
    ),
    ("edge-popup", "--init kaiming_normal", "weights from a normal distribution"),
    ("edge-popup", "--no-rescale", "weights not rescaled by 1/√density"),
    ("zhou", "", "dynamic rescaling of the weights"),
    ("zhou", "--method-args dynamic_rescale=false", "weights not rescaled"),
    ("signed-supermask", "", "thresholds that follow the density"),
    ("signed-supermask", "--method-args fixed_threshold=true", "the fixed threshold of the paper"),
    ("biprop", "", "one-bit weights"),
    ("biprop", "--model-args binary_activations=true", "one-bit weights and activations"),
    (
        "biprop",
        "--method-args density_schedule=cubic initial_density=0.5",
        "one-bit weights, from half of them by a cubic (the authors' code)",
    ),
    ("gem-miner", "", "free weights of low score left out in the end"),
    ("gem-miner", "--method-args restore=true", "all free weights restored in the end"),
    ("gem-miner", "--density 0.02", "asked for 0.02"),
    ("gem-miner", "--density 0.02 --no-rescale", "asked for 0.02, weights not rescaled"),
    ("frozen", "", "half of the mask settled before the search"),
    ("frozen", "--method-args pruned=0.63 locked=0.27", "nine tenths of the mask settled before the search"),
    ("l0-gates", "", "Gaussian gates, one for each weight"),
    ("l0-gates", "--method-args relaxation=hard-concrete", "hard concrete gates"),
    ("l0-gates", "--method-args gates=neuron", "one gate for each neuron"),
    ("concrete", "", "the loss of the gated network"),
    ("concrete", "--method-args objective=kl", "the divergence from the dense network (CTS-KL)"),
)
"""Method, flags, what they mean."""


def search(method: str, flags: str, seed: int, out: Path, common: list[str]) -> dict[str, Any]:
    """The document of one search."""
    folder = out / "-".join([method, *flags.replace("--", "").split(), str(seed)])
    words = [
        *common,
        "--threads",
        "1",
        "--jobs",
        "1",
        "--method",
        method,
        *flags.split(),
        "--seed",
        str(seed),
        "--out",
        str(folder),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "supermask", "search", *words], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr}")
    document: dict[str, Any] = read_json(folder / "results.json")
    print(f"{method} {flags}, seed {seed}: {document['rows'][0]['test_accuracy']:.4f}", flush=True)
    return document


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", help="where MNIST lies (else $SUPERMASK_DATA)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="searches at a time")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs" / "mnist-variants", help="folder of the runs"
    )
    parser.add_argument("--short", action="store_true", help="only see whether every variant runs")
    options = parser.parse_args()
    seeds, flags = (SEEDS[:1], SHORT) if options.short else (SEEDS, COMMON)
    common = [*flags, "--data-root", options.data_root] if options.data_root else flags
    result = options.out / "short.json" if options.short else RESULT
    measure(options.out.resolve(), options.jobs, seeds, flags, common, result)


def measure(
    out: Path, jobs: int, seeds: tuple[int, ...], flags: list[str], common: list[str], result: Path
) -> None:
    """Run every variant with every seed and write the document."""
    rows = []
    with ThreadPoolExecutor(jobs) as pool:
        found = {
            (method, own): [pool.submit(search, method, own, seed, out, common) for seed in seeds]
            for method, own, _ in VARIANTS
        }
        for method, own, meaning in VARIANTS:
            documents = [future.result() for future in found[method, own]]
            results = [document["rows"][0] for document in documents]
            rows.append(
                {
                    "method": method,
                    "flags": own,
                    "meaning": meaning,
                    "accuracies": [result["test_accuracy"] for result in results],
                    "kept_densities": [result["kept_density"] for result in results],
                }
            )
    document = {
        "schema": "supermask/variants/1",
        "machine": documents[-1]["machine"],
        "command": "python benchmarks/variants.py",
        "seeds": list(seeds),
        "flags": flags,
        "rows": rows,
    }
    write_json(result, document)
    print(f"written to {result}")


if __name__ == "__main__":
    main()

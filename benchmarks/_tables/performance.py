"""Tables of timings, in docs/performance.md."""

from collections.abc import Mapping
from typing import Any

from _tables.layout import markdown, where


def steps(document: dict[str, Any], _: str) -> str:
    """What a search step costs over a dense step."""
    names = {
        "edge-popup": "edge-popup, `lr=`",
        "default": "without `lr`",
        "parts": "`lr=`, in parts",
        "signed": "signed supermask",
        "signed-parts": "signed in parts",
        "sort": "sort in every forward",
    }
    shown = [name for name in names if f"{name}/dense" in document["rows"][0]]
    rows = [[row["network"], *(f"{row[f'{name}/dense']:.3f}" for name in shown)] for row in document["rows"]]
    head = ["network", *(names[name] for name in shown)]
    return f"{where(document['machine'], 'training_step')}; batches of 128\n\n" + markdown(head, rows)


def linear(document: dict[str, Any], _: str) -> str:
    """Packed linear layers over the faster dense one."""
    rows = []
    for row in document["rows"]:
        results = row["results"]
        rows.append(
            [
                f"{row['outputs']}×{row['inputs']}",
                "±σ" if row["init"] == "sign" else row["init"].replace("_", " "),
                row["dtype"],
                f"{row['density']:g}",
                str(row["batch"]),
                "memory" if row["rotated"] else "cache",
                f"{results['packed']['median_ms']:.3f}",
                *(f"{results[n]['median_ms']:.3f}" if n in results else "" for n in ("eager", "onednn")),
                f"{results['csr']['median_ms']:.3f}" if "csr" in results else "",
                f"**{row['speedup']:.1f}×**",
                f"{results['packed']['bits_per_weight']:.1f}",
            ]
        )
    head = ["layer", "weights", "type", "density", "batch", "from", "packed, ms", "eager", "oneDNN", "CSR",
            "over the faster dense", "bits per weight"]  # fmt: skip
    return f"{_where_linear(document)}\n\n" + markdown(head, rows)


def _where_linear(document: dict[str, Any]) -> str:
    place = where(document["machine"], "masked_linear")
    limit = " with ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2, which other packages do not heed"
    if document.get("clock") == "cpu":
        place = place.removesuffix("`") + " --clock cpu`"
    return place + (limit if document.get("onednn_limit") == "AVX2" else "")


EXACT = ("eager", "onednn")
ROUNDING = ("onnxruntime 2 bits", "openvino 4 bits", "torch 4 bits")


def linear_rivals(document: dict[str, Any], _: str) -> str:
    """Packed linear layers of signed constants beside those of other packages: times and errors."""
    rows = []
    for row in document["rows"]:
        results = row["results"]
        if ROUNDING[0] not in results:
            continue
        names = ("packed", *EXACT, "packed int8", *ROUNDING)
        fastest = {
            own: min(results[name]["median_ms"] for name in others if name in results)
            / results[own]["median_ms"]
            for own, others in (("packed", EXACT), ("packed int8", ROUNDING))
        }
        cells = [
            f"{results[n]['median_ms']:.3f} ({results[n]['error']:.0e})"
            if n in results
            else "failed"
            if n in row.get("failed", {})
            else ""
            for n in names
        ]
        cells.insert(3, f"**{fastest['packed']:.1f}×**")
        cells.append(f"**{fastest['packed int8']:.1f}×**")
        layer = f"{row['outputs']}×{row['inputs']}"
        source = "memory" if row["rotated"] else "cache"
        rows.append([layer, f"{row['density']:g}", str(row["batch"]), source, *cells])
    head = ["layer", "density", "batch", "from", "packed", "eager", "oneDNN", "packed over the faster",
            "packed int8", *(name.replace("2 bits", "2-bit").replace("4 bits", "4-bit") for name in ROUNDING),
            "packed int8 over the fastest"]  # fmt: skip
    packages = ", ".join(
        f"{name} {version}" for name, version in document["rivals"].items() if name != "torch"
    )
    return f"{_where_linear(document)}; {packages}\n\n" + markdown(head, rows)


def linear_gpu(document: dict[str, Any], _: str) -> str:
    """A linear layer on a GPU: every way to compute it, over cuBLAS."""
    first, machine = document["rows"][0], document["machine"]
    names = list(dict.fromkeys(name for row in document["rows"] for name in row["candidates"]))
    names = [name for name in names if name not in ("cublas", "again")]
    rows = []
    for row in document["rows"]:
        found = row["candidates"]
        speedups = [_times(found[name]["speedup"]) if name in found else "" for name in names]
        start = [
            str(row["batch"]),
            "memory" if row["cold"] else "cache",
            f"{found['cublas']['median_us']:.1f}",
        ]
        rows.append(start + speedups)
    heading = (
        f"{machine['gpu']}, torch {machine['torch']}, {first['outputs']}×{first['inputs']} weights ±σ and 0, "
        f"density {first['density']:g}, {first['dtype']}: `python benchmarks/masked_linear_cuda.py`"
    )
    return f"{heading}\n\n" + markdown(["batch", "from", "cuBLAS, µs", *names], rows)


def _times(factor: float) -> str:
    return f"{factor:.2f}×" if factor >= 0.1 else f"{factor:.2g}×"


def network_of(row: Mapping[str, Any]) -> str:
    """The name of a row's network, with its weights where they are not signed constants."""
    name = str(row["network"]).removeprefix("timm/")
    init = row.get("init", "signed_constant")
    return name if init == "signed_constant" else f"{name}, {init.replace('_', ' ')}"


def networks(document: dict[str, Any], _: str) -> str:
    """Packed networks over dense ones."""
    rivals = ("dense", "compiled", "dense_bf16")
    rows = [
        [
            network_of(row),
            str(row["batch"]),
            f"{row['packed']['median_ms']:.2f}",
            *(f"{row['against'][rival]:.2f}×" if rival in row["against"] else "" for rival in rivals),
            f"{row['dense_bf16']['median_ms'] / row['packed_bf16']['median_ms']:.2f}×",
            f"{row['bytes']['dense'] / row['bytes']['packed']:.1f}×",
        ]
        for row in document["rows"]
    ]
    head = ["network", "batch", "packed fp32, ms", "over eager fp32", "over compiled fp32", "over eager bf16",
            "packed bf16 over eager bf16", "less memory"]  # fmt: skip
    place = where(document["machine"], "packed_models")
    if document.get("clock") == "cpu":
        place = place.removesuffix("`") + " --clock cpu`"
    return f"{place}; density 0.3\n\n" + markdown(head, rows)


def rounded(value: float) -> str:
    """Three significant digits."""
    return f"{float(f'{value:.3g}'):,g}"


def throughput(document: dict[str, Any], _: str) -> str:
    """Images per second of whole trainings, and the time of a figure of many."""
    kinds = ("dense", "edge-popup", "imp", "sort", "dataloader")
    rows = [
        [
            row["network"].removeprefix("torchvision/"),
            str(row["image_size"]),
            str(row["batch_size"]),
            *(rounded(row[kind]["images_per_second"]) for kind in kinds),
            f"{row['dataloader/dense']:.2f}×",
            f"{row['sort/edge-popup']:.2f}×",
        ]
        for row in document["rows"]
    ]
    head = ["network", "pixels", "batch", "dense", "edge-popup", "IMP", "sort in every forward",
            "dense, DataLoader", "dense over DataLoader", "edge-popup over sort"]  # fmt: skip
    figure, machine = document["survey_figure_1"], document["machine"]
    summary = (
        f"{figure['rounds']} rounds of IMP with the reinit control of each, {figure['seeds']} seeds, "
        f"{figure['network']}, CIFAR-10, {figure['epochs']} epochs: {figure['hours']:,.0f} hours, against "
        f"{figure['hours_by_dataloader']:,.0f} by the plain loop (extrapolated from measured steps, "
        f"{figure['steps']:,} in all, every round from its first step; without evaluations)."
    )
    script = where(machine, "throughput")
    return f"{script}; amp {document['amp']}\n\n{markdown(head, rows)}\n\n{summary}"


def selection(document: dict[str, Any], _: str) -> str:
    """Selections over what peers call in every forward pass."""
    rows = []
    for row in document["rows"]:
        ours = [name for name in ("cold", "warm", "2:4") if name in row]
        rival = "topk" if "topk" in row else "kthvalue"
        rows += [
            [
                row["what"],
                name,
                f"{row[name]['median_ms']:.2f}",
                f"{row[f'{rival}/{name}']:.1f}× ({rival})",
                f"{row[f'sort/{name}']:.1f}×",
            ]
            for name in ours
        ]
    head = ["scores", "selection", "ms", "over kthvalue or topk", "over sort"]
    limit = f" with ATEN_CPU_CAPABILITY={document['limit']}" if document.get("limit") else ""
    return f"{where(document['machine'], 'selection')}{limit}\n\n" + markdown(head, rows)


def loaders(document: dict[str, Any], _: str) -> str:
    """Our loader over torchvision's."""
    rows = []
    for row in document["rows"]:
        rates, speedup = row["images_per_second"], row["speedup"]
        rows.append(
            [
                row["data"],
                row["augment"],
                str(row["image_size"]),
                *(
                    f"{rates[which]:,.0f}"
                    for which in ("files", "decoded", "resident", "mapped", "read ahead")
                ),
                f"**{speedup['read ahead/files']:.1f}×**",
                f"{speedup['read ahead/decoded']:.1f}×",
            ]
        )
    head = ["data", "augmentation", "pixels", "`ImageFolder`, images/s", "the same, decoded before",
            "ours, resident", "mapped", "read ahead", "over `ImageFolder`", "over decoded"]  # fmt: skip
    return f"{where(document['machine'], 'loader')}\n\n" + markdown(head, rows)


def seeds(document: dict[str, Any], _: str) -> str:
    """Network-steps per second of several seeds together, over one after another."""
    cases: dict[tuple[str, int, int], dict[int, dict[str, Any]]] = {}
    for row in document["rows"]:
        case = row["network"], row["image_size"], row["batch_size"]
        cases.setdefault(case, {})[row["seeds"]] = row
    counts = sorted({row["seeds"] for row in document["rows"]})
    rows = []
    for (network, size, batch), by_count in cases.items():
        for kind in ("dense", "edge-popup"):
            cells = [
                f"{by_count[count][f'{kind} together/alone']:.2f}×" if count in by_count else ""
                for count in counts
            ]
            rows.append([f"{network}, {size} pixels", str(batch), kind, *cells])
    head = ["network", "batch", "training", *(f"{count} seeds" for count in counts)]
    return f"{where(document['machine'], 'seeds_together')}\n\n" + markdown(head, rows)


def coding(document: dict[str, Any], _: str) -> str:
    """Masks at their entropy."""
    head = ["density", "bits a weight", "entropy"]
    head += ["coded in, ms", "decoded in, ms", "in NumPy, ms", "plain bits, ms"]
    rows = [
        [
            f"{row['density']:g}",
            f"{row['bits_per_weight']:.3f}",
            f"{row['entropy']:.3f}",
            *(rounded(row[way]["median_ms"]) for way in ("encode", "decode", "page", "unpack")),
        ]
        for row in document["rows"]
    ]
    return f"{where(document['machine'], 'ticket_coding')}\n\n{markdown(head, rows)}"


def rounded_tickets(document: dict[str, Any], _: str) -> str:
    """Accuracies of tickets, packed exactly and with inputs rounded to int8."""
    ways = ("dense", "packed", "packed int8")
    rows = [
        [
            row["network"],
            f"`{row['search']}`",
            f"{row['rounding']} of {row['layers']}",
            *(f"{100 * row[way]['accuracy']:.2f} ({row[way]['loss']:.4f})" for way in ways),
        ]
        for row in document["rows"]
    ]
    head = ["network", "search", "layers that round", "dense, % (loss)", "packed", "packed int8"]
    return f"{where(document['machine'], 'int8_tickets')}\n\n" + markdown(head, rows)


def start_up(document: dict[str, Any], _: str) -> str:
    """Start-up beside that of torch."""
    (row,) = document["rows"]
    head = [
        "`import torch`, ms",
        "with `import supermask`",
        "with all that a search and a packed ticket need",
    ]
    cells = [
        f"{row['torch']['median_ms']:,.0f}",
        *(f"{row[f'{name}/torch']:.2f}×" for name in ("supermask", "names")),
    ]
    return f"{where(document['machine'], 'start_up')}\n\n" + markdown(head, [cells])


KINDS = {
    "coding": coding,
    "rounded_tickets": rounded_tickets,
    "start_up": start_up,
    "steps": steps,
    "linear": linear,
    "linear_gpu": linear_gpu,
    "linear_rivals": linear_rivals,
    "networks": networks,
    "throughput": throughput,
    "selection": selection,
    "loaders": loaders,
    "seeds": seeds,
}

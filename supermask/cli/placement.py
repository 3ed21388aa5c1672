"""Where and how a command executes its runs: device, processes, engine; nothing of it is part of a result."""

import os

import torch

from supermask.data import Dataset
from supermask.distributed import Ranks, own_device
from supermask.experiments.config import ConfigError, TaskConfig
from supermask.experiments.engines import ENGINES, Engine
from supermask.experiments.engines.local import jobs_here
from supermask.experiments.engines.registry import Grid
from supermask.experiments.execution.context import Environment, network_of
from supermask.experiments.execution.store import Store
from supermask.experiments.plan import Plan
from supermask.training.memory_format import MemoryFormatError, check_channels_last
from supermask.training.precision import PURE

EXECUTION_FIELDS = (
    *("out", "jobs", "threads", "data_root", "cache", "stream", "checkpoint_seconds"),
    *("engine", "retries", "keep_going", "gpu_share", "ray_address", "together", "log"),
)
"""Fields that say where and not what; they are left out of the recorded configuration."""


def device_of(config: TaskConfig) -> str:
    """The device of this process.

    Raises:
        ConfigError: There is no such device, or it cannot do what is asked of it.
    """
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if _elsewhere(config):
        if device not in ("cpu", "cuda"):
            raise ConfigError("device", device, f"take cpu or cuda with --engine {config.engine}")
    else:
        device = check_device(device)
    if config.cuda_graphs and torch.device(device).type != "cuda":
        raise ConfigError("cuda_graphs", True, f"leave it out on {device}; graphs need a GPU")
    if config.cuda_graphs and config.amp == "fp16":
        raise ConfigError("cuda_graphs", True, "leave it out with --amp fp16, or take --amp bf16")
    if config.accelerate:
        _check_acceleration(config, device)
    return device


def _check_acceleration(config: TaskConfig, device: str) -> None:
    """Refuse what would leave nothing to accelerate."""
    if torch.device(device).type != "cpu":
        raise ConfigError("accelerate", True, f"leave it out on {device}; it is for CPUs")
    if config.amp != "none":
        raise ConfigError("accelerate", True, f"leave it out with --amp {config.amp}; it is for float32")
    if config.compile:
        raise ConfigError("accelerate", True, "leave it out with --compile, which takes the layers apart")


def environment_of(config: TaskConfig, device: str, ranks: Ranks) -> tuple[Environment, int]:
    """Where runs execute, and how many at a time; 0 where the engine finds out.

    Raises:
        ConfigError: Under torchrun, something is asked that has no meaning there.
    """
    elsewhere = _elsewhere(config)
    jobs = config.jobs if elsewhere else config.jobs or jobs_here(device, config.gpu_share)
    if config.engine == "plain":
        jobs = 1
    if ranks.size > 1:
        _check_ranks(config, ranks)
        jobs = 1
    threads = 1 if elsewhere else _threads(config.cores, jobs, ranks)
    environment = Environment(
        device=device,
        threads=config.threads or threads,
        data_root=config.data_root,
        cache=config.cache,
        stream=config.stream,
        channels_last=config.channels_last,
        compile=config.compile,
        cuda_graphs=config.cuda_graphs,
        accelerate=config.accelerate,
        checkpoint_seconds=config.checkpoint_seconds,
        together=config.together,
        log=config.log,
        ranks=ranks,
    )
    return environment, jobs


def _threads(cores: int, jobs: int, ranks: Ranks) -> int:
    """Threads of a process that was given none: those of OMP_NUM_THREADS, or its share of the cores.

    torchrun sets that variable to 1 by itself, so there it says nothing.
    """
    given = os.environ.get("OMP_NUM_THREADS", "") if ranks.size == 1 else ""
    return int(given) if given.isdecimal() and int(given) else max(1, cores // (jobs * ranks.local_size))


def check_memory_format(config: TaskConfig, plan: Plan, data: Dataset, device: str) -> None:
    """Refuse channels_last, asked for by flag, for a network that the device cannot train in it.

    Raises:
        ConfigError: It is a CPU, and a layer is one that it computes wrongly.
    """
    if not config.channels_last:
        return
    networks = {(task.model, str(task.model_args)): task for task in (spec.task for spec in plan.graph)}
    for task in networks.values():
        with torch.device("meta"):
            network = network_of(task, data)
        try:
            check_channels_last(network, torch.device(device).type)
        except MemoryFormatError as error:
            raise ConfigError("channels_last", True, f"leave it out: {error}") from None


def engine_of(config: TaskConfig, store: Store, environment: Environment, jobs: int) -> Engine:
    """The engine that `config` names, for `jobs` runs at a time.

    Raises:
        ConfigError: The plain engine is asked for several runs at a time.
    """
    name = config.engine
    if name == "auto":
        name = "plain" if jobs == 1 else "local"
    if name == "plain" and config.jobs > 1:
        raise ConfigError("engine", name, f"take local for --jobs {config.jobs}: this process executes one")
    grid = Grid(
        jobs=jobs,
        retries=config.retries,
        keep_going=config.keep_going,
        gpu_share=config.gpu_share,
        ray_address=config.ray_address,
    )
    return ENGINES[name].make(store, environment, grid)


def _elsewhere(config: TaskConfig) -> bool:
    return config.engine in ENGINES and ENGINES[config.engine].elsewhere


def check_device(device: str) -> str:
    """A device of this process, by its full name.

    Raises:
        ConfigError: There is none of that name.
    """
    try:
        device = own_device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError("device", device, f"take one that exists here ({reason})") from None
    except ValueError as error:
        raise ConfigError("device", device, str(error)) from None
    if torch.device(device).type == "meta":
        raise ConfigError("device", device, "take cpu or cuda: tensors there have no values")
    return device


def _check_ranks(config: TaskConfig, ranks: Ranks) -> None:
    """Refuse what has no meaning where every run is spread over the processes of torchrun."""
    together = f"leave it out under torchrun, whose {ranks.size} processes execute every run together"
    if config.jobs > 1:
        raise ConfigError("jobs", config.jobs, f"{together}, one at a time")
    if config.engine not in ("auto", "plain"):
        raise ConfigError("engine", config.engine, f"{together}, one at a time")
    if config.keep_going:
        raise ConfigError("keep_going", True, "leave it out under torchrun: a run that fails ends all ranks")
    if config.cuda_graphs:
        raise ConfigError("cuda_graphs", True, "leave it out under torchrun, where gradients are exchanged")
    if config.amp == PURE:
        raise ConfigError("amp", PURE, "take bf16 under torchrun, where gradients are exchanged in float32")
    if config.batch_size < ranks.size:
        raise ConfigError(
            "batch_size",
            config.batch_size,
            f"take at least {ranks.size}, one image for each process of torchrun, or start fewer",
        )

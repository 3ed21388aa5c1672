"""Experiments as commands: a configuration, a plan of runs, and the document made of their results.

Every experiment is registered here by the module that defines it; the command line finds it by itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from supermask.data import Dataset
from supermask.experiments.config import TaskConfig
from supermask.experiments.execution.store import Store
from supermask.experiments.plan import Plan
from supermask.experiments.results import describe_rows

Planner = Callable[[Any, Dataset], Plan]
Describer = Callable[[Plan, Store, Path], dict[str, Any]]
Decider = Callable[[Any, Plan, Store], tuple[Any, dict[str, Any]]]
ExperimentT = TypeVar("ExperimentT", bound="Experiment | Computation")


@dataclass(frozen=True)
class Trials:
    """Runs that decide a value of a configuration before the experiment is planned.

    Attributes:
        plan: From the configuration and its data set to their graph; None where nothing is to be decided.
        decide: From the configuration and the finished graph to the configuration with the value, and to
            what results and tickets record of it.
    """

    plan: Callable[[Any, Dataset], Plan | None]
    decide: Decider


@dataclass(frozen=True)
class Experiment:
    """A command of the command line.

    Attributes:
        name: Of the command.
        help: What it does, in a few words.
        config: Its configuration, a dataclass of `option` fields.
        plan: From the configuration and its data set to the graph of runs.
        describe: From the finished plan to what its results hold beside configuration and machine; `rows`
            among it.
        trials: What is decided by runs of its own before, if anything is.
    """

    name: str
    help: str
    config: type[TaskConfig]
    plan: Planner
    describe: Describer = describe_rows
    trials: Trials | None = None

    def document(
        self, plan: Plan, store: Store, out: Path, config: Mapping[str, Any], machine: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What `results.json` holds; docs/commands.md explains each key."""
        facts = {"config": dict(config), "machine": dict(machine)}
        return {"schema": f"supermask/{self.name}/1", **facts, **self.describe(plan, store, out)}


@dataclass(frozen=True)
class Computation:
    """A command whose work is no graph of runs: it computes case after case, in this process.

    Attributes:
        name: Of the command.
        help: What it does, in a few words.
        config: Its configuration, a dataclass of `option` fields; `out` among them is the folder.
        cases: From the configuration to the number of cases.
        compute: From the configuration to the document that `results.json` holds; it also writes it. Calls
            its second argument with the number of cases done.
    """

    name: str
    help: str
    config: type[Any]
    cases: Callable[[Any], int]
    compute: Callable[[Any, Callable[[int], None]], dict[str, Any]]


EXPERIMENTS: dict[str, Experiment] = {}
"""Commands that execute a graph of runs."""
COMPUTATIONS: dict[str, Computation] = {}
"""Commands that do not."""


def register_experiment(experiment: ExperimentT) -> ExperimentT:
    """Make an experiment known to the command line."""
    if isinstance(experiment, Experiment):
        EXPERIMENTS[experiment.name] = experiment
    else:
        COMPUTATIONS[experiment.name] = experiment
    return experiment


def commands() -> dict[str, Experiment | Computation]:
    """Name → command, of both kinds."""
    return {**EXPERIMENTS, **COMPUTATIONS}

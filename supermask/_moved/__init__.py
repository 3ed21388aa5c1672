"""Module paths of version 0.1: they still import, with a DeprecationWarning, until version 0.3.

A finder at the end of `sys.meta_path` answers for a path that has moved with the module that took its
place, so that `from supermask.ticket import Ticket` gives the one class there is.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "agreement": "distributed.consistency",
    "anatomy": "analysis.masks",
    "arguments": "cli.flags",
    "checkpointing": "training.checkpoint",
    "commands": "cli.run",
    "connectivity": "analysis.connectivity",
    "experiments.engines.drive": "experiments.engines.scheduler",
    "experiments.engines.ray_cluster": "experiments.engines.ray",
    "experiments.engines.schedule": "experiments.engines.ready_queue",
    "experiments.engines.units": "experiments.engines.jobs",
    "experiments.execute": "experiments.execution.run",
    "experiments.kinds": "experiments.execution.kinds",
    "experiments.mask_sources": "experiments.execution.mask_sources",
    "experiments.methods": "experiments.compare.methods",
    "experiments.setting": "experiments.runs",
    "experiments.store": "experiments.execution.store",
    "experiments.teams": "experiments.execution.batching",
    "experiments.together": "experiments.execution.ensemble",
    "graphs": "training.cuda_graphs",
    "init": "weights.init",
    "layouts": "ops.layouts",
    "loading": "tickets.load",
    "mask": "masks",
    "norms": "models.batch_statistics",
    "operators": "ops.library",
    "parameters": "weights.roles",
    "places": "cli.placement",
    "precision": "training.precision",
    "provenance": "tickets.provenance",
    "ranks": "distributed.process_group",
    "references": "ops.references",
    "schedule": "training.schedule",
    "search.gates": "search.stochastic_gates",
    "search.setup": "search.construction",
    "superposition": "tickets.superposition",
    "synced_norms": "distributed.sync_batchnorm",
    "ticket": "tickets.ticket",
    "ticket_entries": "tickets.entry",
    "ticket_reading": "tickets.parse",
    "ticket_values": "tickets.derivation",
    "theory.run": "experiments.theory",
    "together": "training.ensemble",
    "train": "training.loop",
}
"""Path below `supermask` in version 0.1 → where its names are now."""


class _Alias(Loader):
    """Gives the module that took another's place."""

    def __init__(self, path: str) -> None:
        self._path = path

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty module, which `exec_module` replaces in `sys.modules`."""
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Put the new module under the old name."""
        warnings.warn(
            f"{module.__name__} is now {self._path}; the old path goes with version 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        sys.modules[module.__name__] = import_module(self._path)


class _Finder(MetaPathFinder):
    """Answers for paths that have moved; asked last, when no file has that name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a path that has moved, or None."""
        package, _, rest = fullname.partition(".")
        if package != "supermask" or rest not in MOVED:
            return None
        return ModuleSpec(fullname, _Alias(f"supermask.{MOVED[rest]}"))


def install() -> None:
    """Answer for old paths from now on; a second call changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())

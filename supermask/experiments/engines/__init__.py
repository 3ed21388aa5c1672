"""Engines execute a graph of runs: each run after the runs it needs, each once, into one store.

Every module of this package is imported here, so that a new engine is one new file with its decorator.
Engines differ in where runs execute and in nothing else: what starts next, what is tried again and what ends
the work is decided by `execute_graph`, and the results have the same bytes.
"""

from importlib import import_module
from pkgutil import iter_modules

from supermask.experiments.engines.registry import ENGINES as ENGINES
from supermask.experiments.engines.registry import Engine as Engine
from supermask.experiments.engines.registry import EngineError as EngineError
from supermask.experiments.engines.registry import Watcher as Watcher
from supermask.experiments.engines.registry import WorkerDied as WorkerDied
from supermask.experiments.engines.registry import register_engine as register_engine

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

"""Experiments: graphs of runs over a store of finished runs, and the engine that executes them."""

from supermask.experiments.config import ConfigError as ConfigError
from supermask.experiments.config import RuleConfig as RuleConfig
from supermask.experiments.config import TaskConfig as TaskConfig
from supermask.experiments.engines import EngineError as EngineError
from supermask.experiments.engines import WorkerDied as WorkerDied
from supermask.experiments.engines.local import LocalEngine as LocalEngine
from supermask.experiments.engines.plain import PlainEngine as PlainEngine
from supermask.experiments.engines.ray import RayEngine as RayEngine
from supermask.experiments.engines.registry import Grid as Grid
from supermask.experiments.registry import COMPUTATIONS as COMPUTATIONS
from supermask.experiments.registry import EXPERIMENTS as EXPERIMENTS
from supermask.experiments.registry import Computation as Computation
from supermask.experiments.registry import Experiment as Experiment
from supermask.experiments.registry import register_experiment as register_experiment

# isort: off
# Help lists the commands in the order in which they are imported here.
from supermask.experiments.compare.command import CompareConfig as CompareConfig
from supermask.experiments.search import SearchConfig as SearchConfig
from supermask.experiments.imp import ImpConfig as ImpConfig
from supermask.experiments.anatomy import AnatomyConfig as AnatomyConfig
from supermask.experiments.scaling import ScalingConfig as ScalingConfig
from supermask.experiments.stability import StabilityConfig as StabilityConfig
from supermask.experiments.transfer import TransferConfig as TransferConfig
from supermask.experiments.theory import TheoryConfig as TheoryConfig
from supermask.experiments.theory import run_theory as run_theory
# isort: on

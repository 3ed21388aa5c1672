"""The Ray engine on a cluster of two machines, in one machine's processes, of which one is killed halfway."""

import signal

import pytest

ray = pytest.importorskip("ray")

from supermask.data import load_data  # noqa: E402
from supermask.experiments import CompareConfig, Grid, PlainEngine, RayEngine  # noqa: E402
from supermask.experiments.compare.command import plan_compare  # noqa: E402
from supermask.experiments.engines import ray as ray_engine  # noqa: E402
from supermask.experiments.execution.context import Environment  # noqa: E402
from supermask.experiments.execution.store import Store  # noqa: E402

from .watch import Watch  # noqa: E402

SYSTEM = {"worker_niceness": 0, "health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
"""Ray's workers give way to all else by default, and a machine's death is noticed late."""


@pytest.fixture(scope="module")
def graph():
    config = CompareConfig(
        densities=(0.5,),
        seeds=(0,),
        methods=("edge-popup", "imp", "reinit"),
        epochs=30,
        out="x",
    )
    return plan_compare(config, load_data("digits")).graph


@pytest.fixture
def cluster(monkeypatch):
    """A head and a second machine with room for one run each; this process has joined it."""
    from ray.cluster_utils import Cluster

    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.setenv(name, "0")
    handler = signal.getsignal(signal.SIGTERM)
    room = {"num_cpus": 1, "object_store_memory": 100 << 20}
    made = Cluster(
        initialize_head=True,
        head_node_args={**room, "include_dashboard": False, "_system_config": SYSTEM},
    )
    second = made.add_node(**room)
    ray.init(address=made.address, log_to_driver=False, logging_level="error")
    yield made, second
    ray.shutdown()
    made.shutdown()
    signal.signal(signal.SIGTERM, handler)


def files(store: Store) -> dict[str, object]:
    """All that the runs left, times aside."""
    found: dict[str, object] = {}
    for path in sorted(store.root.rglob("*")):
        name = str(path.relative_to(store.root))
        if path.name == "result.json":
            run = store.run(path.parent.name)
            found[name] = {key: value for key, value in run.result.items() if key != "seconds"}
        elif path.is_file() and path.name != ".lock":
            found[name] = path.read_bytes()
    return found


def test_a_machine_that_is_killed_halfway_costs_nothing_but_time(cluster, graph, tmp_path, monkeypatch):
    made, second = cluster
    monkeypatch.setattr(ray_engine, "PATIENCE", 0.1)
    plain, shared = Store(tmp_path / "plain"), Store(tmp_path / "shared")
    PlainEngine(plain, Environment()).run(graph, Watch())

    class Killer(Watch):
        killed = False

        def advanced(self, spec, step):
            super().advanced(spec, step)
            running = self.steps.keys() - set(self.done)
            if len(running) == 2 and not self.killed:  # one on each machine
                self.killed = True
                made.remove_node(second, allow_graceful=False)

    watch = Killer()
    results = RayEngine(shared, Environment(checkpoint_seconds=0), Grid(jobs=0)).run(graph, watch)
    assert watch.killed and sorted(watch.done) == sorted(results) == sorted({spec.id for spec in graph})
    assert files(shared) == files(plain)
    assert ray.is_initialized()  # what was joined before is not left

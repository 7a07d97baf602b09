"""Which trial a free process takes up, in Tune itself."""

import os
import time
from collections import Counter
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.tune.utils.object_cache import _ObjectCache

from pwmray.driver import connect
from pwmray.driver.interruption import Interruption
from pwmray.driver.scheduling import InOrder
from pwmray.driver.tune_callbacks import signals_left_alone

NUM_CPUS, NUM_TRIALS = 2, 400
MOST_LEAD, LEAD_SECONDS = 150, 300.0  # of trials that one process has run before another


class Waiting(NamedTuple):
    """A trial that waits, as a scheduler sees it."""

    name: str
    placement_group_factory: str
    status: str = "PENDING"


def make_manager():
    """Return what Tune keeps of actors and of what they are asked."""
    return RayActorManager(resource_manager=SimpleNamespace())


def choose(trials, started=(), free=()):
    """Return the name of the trial chosen; processes are `started` for some, and `free` by kind."""
    cache = _ObjectCache()
    for kind in free:
        cache.increase_max(kind)
        cache.cache_object(kind, object())
    manager = make_manager()
    manager.is_actor_started = lambda actor: actor in started
    inner = SimpleNamespace(
        _actor_manager=manager, _trial_to_actor={t: t.name for t in trials}, _actor_cache=cache
    )
    chosen = InOrder(Interruption()).choose_trial_to_run(
        SimpleNamespace(_tune_controller=inner, get_trials=lambda: trials)
    )
    return chosen and chosen.name


TRIALS = [
    Waiting("done", "H100", "TERMINATED"),
    Waiting("a", "H100"),
    Waiting("b", "H200"),
    Waiting("c", "H200"),
]


def test_order_is_that_of_the_trials_but_for_those_that_a_process_is_started_for():
    assert choose(TRIALS) == "a"
    assert choose(TRIALS, started=["a"]) == "b"
    assert choose(TRIALS, started=["a", "b", "c"]) is None
    assert choose(TRIALS[:1]) is None
    failed = TRIALS[1]._replace(status="ERROR")
    assert choose([TRIALS[0], failed, *TRIALS[2:]]) == "b"
    between = [TRIALS[1], TRIALS[2]._replace(status="TERMINATED"), TRIALS[3]]
    assert choose(between) == "a"
    assert choose(between, started=["a"]) == "c"


def test_process_that_is_free_gets_a_trial_that_asks_for_what_it_has():
    assert choose(TRIALS, free=["H200"]) == "b"
    assert choose(TRIALS, started=["b"], free=["H200"]) == "c"
    assert choose(TRIALS, started=["b", "c"], free=["H200"]) == "a"  # to be started, then
    assert choose(TRIALS, free=["A100"]) == "a"


def test_interruption_that_comes_within_a_step_is_told_once_and_stops_it():
    asked, lines, stops = Interruption(), [], []
    scheduler = InOrder(asked, lines.append)
    inner = SimpleNamespace(
        _actor_manager=make_manager(), request_stop_experiment=lambda: stops.append(1)
    )
    asked.reason = "preempted"  # after the callbacks of the step's beginning
    for _ in range(2):
        assert scheduler.choose_trial_to_run(SimpleNamespace(_tune_controller=inner)) is None
    assert stops == [1]
    assert inner._actor_force_cleanup_timeout == asked.find_row_seconds()
    assert lines == ["preempted: trials stop at their next rows, within 60 min"]


def test_answers_that_came_are_not_kept_as_long_as_the_process_lives():
    manager = make_manager()
    for answer in ("first", "second"):
        manager._tracked_actors_to_task_futures["actor"].add(answer)
    manager._actor_task_events.track_future("second")
    inner = SimpleNamespace(_actor_manager=manager, _trial_to_actor={}, _actor_cache=_ObjectCache())
    InOrder(Interruption()).choose_trial_to_run(
        SimpleNamespace(_tune_controller=inner, get_trials=list)
    )
    assert manager._tracked_actors_to_task_futures == {"actor": {"second"}}


@pytest.mark.slow
def test_processes_come_up_beside_one_that_ends_trials_faster_than_they_start(
    tmp_path, monkeypatch
):
    """In Tune's own order one process ran all of these, and others were started for nothing.

    However long a process takes to come up, the first waits with the rest of its trials for it.
    """
    import ray
    from ray import tune

    counts = tmp_path / "counts"
    counts.mkdir()

    def most_of_others(own):
        return max((path.stat().st_size for path in counts.iterdir() if path != own), default=0)

    class Short(tune.Trainable):
        def step(self):
            time.sleep(0.02)
            own, deadline = counts / str(os.getpid()), time.monotonic() + LEAD_SECONDS
            with open(own, "a") as file:
                file.write("x")
            while own.stat().st_size > most_of_others(own) + MOST_LEAD:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            return {"pid": os.getpid(), "at": time.time(), "done": True}

        def reset_config(self, new_config):
            return True

    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    connect.connect(None)
    try:
        tuner = tune.Tuner(
            tune.with_resources(Short, {"CPU": ray.cluster_resources()["CPU"] / NUM_CPUS}),
            param_space={"index": tune.grid_search(list(range(NUM_TRIALS)))},
            tune_config=tune.TuneConfig(reuse_actors=True, scheduler=InOrder(Interruption())),
            run_config=tune.RunConfig(
                storage_path=str(tmp_path),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
        with signals_left_alone():
            done = [result.metrics for result in tuner.fit()]
    finally:
        ray.shutdown()
    num_of = Counter(metrics["pid"] for metrics in done)
    assert len(num_of) == NUM_CPUS
    assert min(num_of.values()) > NUM_TRIALS / 10
    # In order, but for those that the other process was started for.
    ran = sorted(done, key=lambda metrics: metrics["at"])
    order = [metrics["config"]["index"] for metrics in ran]
    assert max(abs(index - place) for place, index in enumerate(order)) < NUM_TRIALS / 2

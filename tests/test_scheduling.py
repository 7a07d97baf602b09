"""Which trial a free process takes up, in Tune itself."""

import os
import time
from collections import Counter

import pytest

from pwmray import connect
from pwmray.scheduling import InOrder

NUM_CPUS, NUM_TRIALS = 2, 400


@pytest.mark.slow
def test_processes_come_up_beside_one_that_ends_trials_faster_than_they_start(
    tmp_path, monkeypatch
):
    """In Tune's own order one process ran all of these, and others were started for nothing."""
    import ray
    from ray import tune

    class Short(tune.Trainable):
        def step(self):
            time.sleep(0.02)
            return {"pid": os.getpid(), "at": time.time(), "done": True}

        def reset_config(self, new_config):
            return True

    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    connect.connect(None)
    try:
        tuner = tune.Tuner(
            tune.with_resources(Short, {"CPU": ray.cluster_resources()["CPU"] / NUM_CPUS}),
            param_space={"index": tune.grid_search(list(range(NUM_TRIALS)))},
            tune_config=tune.TuneConfig(reuse_actors=True, scheduler=InOrder()),
            run_config=tune.RunConfig(
                storage_path=str(tmp_path),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
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

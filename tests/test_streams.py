"""The random streams of a seed: what a trial, a pretraining and a collecting agent draw by it.

If a test here fails, a seed draws other numbers than it did, and what was made before would count
as the same. Then raise what tells them apart, and write down the new numbers: for trials FORMAT of
pwmray.config, for pretrainings FORMAT of pwmray.pretraining.config, for the agent that collects in
rounds "version" of pwmray.data.collector. (tests/test_data.py has the draws of recorded episodes,
which COLLECTION_FORMAT tells apart, and tests/test_algorithm.py those of a trial's weights.)

Whole numbers are compared, which no processor rounds in its own way.
"""

import numpy as np
import pytest
import torch

from pwmray import rounds
from pwmray.build import build_learner, build_planner
from pwmray.data.collect import Episodes
from pwmray.data.recipe import CollectionRecipe
from pwmray.pretraining import run as pretraining
from pwmray.pretraining.config import PretrainingConfig
from tests.made_trials import CPU, ask_for, make_config, open_trial
from tests.stores import write_rows

# Trials of all kinds draw alike, so that they can be compared in pairs.
VARIANTS = ("baseline", "fullflow")
TASKS = ("reacher-easy", "reacher-hard")


def next_of(stream):
    """Return what a stream goes on with: it tells the seed, and how much was drawn before."""
    return torch.randint(10**6, (1,), generator=stream).item()


def first_rows_of(batch):
    return batch.obs_HBO[0, :, 1].tolist()


@pytest.mark.parametrize("variant", VARIANTS)
def test_trial_draws_by_its_seed_what_it_always_drew(variant, tmp_path):
    config = make_config(variant, task=TASKS[0], **{"runtime.compile": False})
    write_rows(tmp_path / "rows.arrow", (20, 24, 30))
    ask_for(config, tmp_path / "trial")
    trial = open_trial(config, tmp_path / "trial", tmp_path / "rows.arrow")
    windows = first_rows_of(trial._sampler.sample(6))
    trial._run_epoch(0.0)
    trial.close()

    left = {name: next_of(stream) for name, stream in trial._generators.items()}
    assert windows == [55, 20, 1, 20, 1, 49]
    assert left == {"windows": 718349, "noise": 54010}


def test_planner_draws_by_its_trials_seed_what_it_always_drew():
    config = make_config()
    make = build_planner(config, build_learner(config)).make
    assert [next_of(make(group)._generator) for group in (0, 1)] == [742351, 840078]


@pytest.mark.parametrize("variant", VARIANTS)
def test_pretraining_draws_by_its_seed_what_it_always_drew(variant, tmp_path, monkeypatch):
    trial = make_config(variant, **{"learner.wm_horizon": 3})
    config = PretrainingConfig.of(trial, {"tasks": TASKS, "batch_size": 6}, seed=3)
    stores = [write_rows(tmp_path / f"{task}.arrow", (8,) * 30, task) for task in TASKS]
    run = pretraining._Run(config, tmp_path, stores, CPU, 0.0, None)._pretrainer
    weight = run.model.encoder[0].weight[2, 5].item()
    times, loss = [], run._loss
    monkeypatch.setattr(run, "_loss", lambda *given: times.append(given[1]) or loss(*given))
    run.train(1)
    run.held_out_losses()

    assert weight == pytest.approx(0.0278317, abs=1e-6)
    left = [next_of(stream) for stream in (*run._generators.values(), times[-1])]
    assert left == [960700, 151480, 242852]
    assert first_rows_of(run._sampler.sample(6)[0]) == [32, 179, 74, 108, 114, 172]
    assert first_rows_of(run._held_out.sample(6)[0]) == [58, 233, 194, 233, 188, 232]


def test_agent_that_collects_in_rounds_draws_by_its_seed_what_it_always_drew():
    recipe = CollectionRecipe(seed=3, num_rounds=1, epochs_per_round=1)
    collector = rounds.Collector("pendulum-spin", recipe)
    zeros = (np.zeros((2, 501, width), np.float32) for width in (3, 1))
    episodes = Episodes(*zeros, np.zeros((2, 501), np.float32), behaviours=("a", "b"))
    collector.train(episodes, rounds._Report(recipe, 1, None))

    left = {name: next_of(stream) for name, stream in collector._generators.items()}
    assert left == {"windows": 664740, "noise": 793556}

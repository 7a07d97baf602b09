"""Pretraining on several tasks: what it samples, what it keeps, and that resuming is exact."""

import dataclasses
import errno
import functools
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pwmray import checkpoint_file, pretrain_command, results, room
from pwmray.algorithm.compiling import compile_networks
from pwmray.algorithm.pretrain import Pretrainer
from pwmray.build import build_parts
from pwmray.config import TrialConfig
from pwmray.data.multitask import MultitaskSampler, split_episodes
from pwmray.data.store import open_store, write_store
from pwmray.models import WORLD_MODELS
from pwmray.models.checkpoints import load_world_model
from pwmray.models.world_model_mlp import MLPWorldModel
from pwmray.pretrain_command import Pretraining
from pwmray.pretraining import run as pretraining
from pwmray.pretraining.config import FORMAT, PretrainingConfig
from pwmray.pretraining.folder import (
    CURVE_FILE,
    ElsewhereError,
    best_iteration,
    clear_leftovers,
    is_done,
)
from pwmray.pretraining.run import pretrain
from pwmray.registry import claim
from pwmray.tasks import find_task
from tests import planned_sweeps
from tests.model_inputs import stream
from tests.tiny import SCALES, SETTINGS

CPU = torch.device("cpu")
TASKS = ("pendulum-spin", "cartpole-swingup")  # 3 and 5 observations
SCALE = {
    "tasks": TASKS,
    "iterations": 6,
    "batch_size": 8,
    "check_every": 2,
    "held_out_batches": 2,
    "held_out_share": 0.3,
}
SMALL = {**SETTINGS, "learner.wm_horizon": 2}


def make_config(trial=(), **scale):
    flat = {**SMALL, "task": TASKS[0], "seed": 0, "epochs": 1, **dict(trial)}
    return PretrainingConfig.of(TrialConfig.from_flat(flat), {**SCALE, **scale})


def make_store(folder, task, num_episodes=10, length=9):
    """Episodes whose every row tells its episode and its step, for the sampler's tests."""
    sizes, num_rows = find_task(task), num_episodes * length
    obs = np.zeros((num_rows, sizes.obs_dim), np.float32)
    obs[:, 0] = np.repeat(np.arange(num_episodes), length)
    obs[:, 1] = np.tile(np.arange(length), num_episodes)
    path = folder / f"{task}.arrow"
    write_store(
        path,
        task,
        obs=obs,
        action=np.zeros((num_rows, sizes.action_dim), np.float32),
        reward=np.full(num_rows, sizes.index, np.float32),
        episode_lengths=[length] * num_episodes,
        behaviours=["uniform"] * num_episodes,
        recipe={},
    )
    return open_store(path)


def make_arm(folder, num_turns):
    """Episodes of reacher's sizes whose shoulder has wound up so many turns more each."""
    rng = np.random.default_rng(0)
    obs = rng.uniform(-3, 3, (90, 6)).astype(np.float32)
    obs[:, 0] += np.repeat(np.arange(10), 9) * num_turns * 2 * np.pi
    columns = {"obs": obs, "action": np.zeros((90, 2), np.float32)}
    path = folder / "arm.arrow"
    write_store(path, "reacher-easy", **columns, reward=np.zeros(90, np.float32),
                episode_lengths=[9] * 10, behaviours=["uniform"] * 10, recipe={})  # fmt: skip
    return open_store(path)


@pytest.fixture
def stores(tmp_path):
    return [make_store(tmp_path, task) for task in TASKS]


def quiet(*_):
    """Progress that nobody sees."""


def weights(folder, name="last.ckpt"):
    return load_world_model(folder / name).state


def curve(folder):
    """Return the rows without what no two runs share, their time."""
    return results.read_table(folder / "curve.arrow").drop_columns("seconds").to_pylist()


def assert_same_weights(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


class Stop(Exception):
    """What ends a run in its middle."""


def stop_at(iteration):
    def progress(_, done, __):
        if done == iteration:
            raise Stop

    return progress


# Sampling.


def test_episodes_are_trained_on_or_held_out(stores):
    split = split_episodes(stores[0], 0.3, stream())
    assert len(split.held_out) == 3
    assert sorted([*split.training, *split.held_out]) == list(range(10))


def test_at_least_one_episode_is_held_out(stores):
    split = split_episodes(stores[0], 0.01, stream())
    assert (len(split.training), len(split.held_out)) == (9, 1)


def test_holding_out_every_episode_is_refused(stores):
    with pytest.raises(ValueError, match="none is left to train on"):
        split_episodes(stores[0], 1.0, stream())


def test_windows_stay_in_a_chosen_episode_of_their_task(stores):
    chosen = [np.array([1, 4]), np.array([7])]
    batch, task_B = MultitaskSampler(stores, chosen, 3, CPU, stream()).sample(400)
    pendulum, cartpole = (find_task(task).index for task in TASKS)
    episodes, steps = batch.obs_HBO[..., 0], batch.obs_HBO[..., 1]
    assert (episodes == episodes[0]).all()
    assert (steps[1:] - steps[:-1] == 1).all()
    assert set(episodes[0][task_B == pendulum].tolist()) == {1, 4}
    assert set(episodes[0][task_B == cartpole].tolist()) == {7}
    assert (batch.r_HB1[0, :, 0] == task_B).all()
    assert (task_B == pendulum).float().mean() == pytest.approx(2 / 3, abs=0.1)


# A run.


def test_pretraining_learns_from_an_arm_that_wound_up_as_from_one_that_did_not(tmp_path):
    def losses(name, num_turns, wrap_angles):
        (tmp_path / name).mkdir()
        arms = [make_arm(tmp_path / name, num_turns)]
        settings = {"world_model.wrap_angles": wrap_angles, "world_model.standardize": True}
        pretrain(make_config(settings), tmp_path / name / "run", arms, CPU, quiet)
        return [row["consistency_loss"] for row in curve(tmp_path / name / "run")]

    straight = losses("straight", 0, True)
    assert losses("wound", 3, True) == pytest.approx(straight, rel=1e-3)
    assert losses("raw", 3, False) != pytest.approx(straight, rel=1e-2)


def test_run_keeps_the_last_and_the_best_model_and_the_loss_by_part(stores, tmp_path):
    folder = tmp_path / "run"
    pretrain(make_config({"variant": "flowwm"}), folder, stores, CPU, quiet)
    rows = curve(folder)
    assert [(row["iteration"], row["episodes"]) for row in rows] == [
        (iteration, episodes) for iteration in (2, 4, 6) for episodes in ("training", "held_out")
    ]
    parts = ("world_model_loss", "consistency_loss", "reward_loss", "matching_loss")
    assert np.isfinite([[row[part] for part in parts] for row in rows]).all()
    held_out = {r["iteration"]: r["world_model_loss"] for r in rows if r["episodes"] == "held_out"}
    best, last = (load_world_model(folder / name) for name in ("best.ckpt", "last.ckpt"))
    assert best.iterations == min(held_out, key=held_out.__getitem__)
    assert (last.iterations, last.tasks, last.fidelity) == (6, TASKS, "corrected")
    assert is_done(folder)
    assert not (folder / "resume.ckpt").exists()


def make_pretrainer(config, stores):
    trial = config.trial
    model = WORLD_MODELS["mlp"](trial.world_model, stream())
    return Pretrainer(model, stores, config.settings, trial.learner, 0, CPU)


def test_held_out_loss_is_that_of_the_same_windows_and_falls(stores):
    config = make_config({"learner.model_lr": 1e-2, "learner.reward_weight": 1.0}, iterations=60)
    pretrainer = make_pretrainer(config, stores)
    before = pretrainer.held_out_losses()
    assert pretrainer.held_out_losses() == before
    pretrainer.train(60)
    assert pretrainer.held_out_losses()["world_model_loss"] < before["world_model_loss"] / 2


def test_pretraining_takes_clipped_steps_of_plain_adam_at_one_rate(stores):
    config = make_config({"learner.model_clip": 0.01, "learner.model_lr": 2e-3}, iterations=4)
    ours, plain = (make_pretrainer(config, stores) for _ in range(2))
    weights = list(plain.model.parameters())
    adam = torch.optim.Adam(weights, lr=2e-3, betas=(0.9, 0.999), foreach=False)

    losses, seen = ours.train(4), []
    for _ in range(4):
        loss, _ = plain._loss(plain._sampler, plain._generators["pretrain-times"])
        adam.zero_grad()
        loss.backward()
        assert torch.nn.utils.clip_grad_norm_(weights, 0.01) > 0.02
        adam.step()
        seen.append(loss.item())

    assert losses["world_model_loss"] == pytest.approx(np.mean(seen), rel=1e-5)
    torch.testing.assert_close(ours.model.state_dict(), plain.model.state_dict())


@pytest.mark.parametrize("kind", ["mlp", "flow"])
@pytest.mark.parametrize("iteration", [2, 4])
def test_stopped_run_goes_on_exactly(kind, iteration, stores, tmp_path):
    config = make_config({"world_model.kind": kind})
    pretrain(config, tmp_path / "whole", stores, CPU, quiet)
    with pytest.raises(Stop):
        pretrain(config, tmp_path / "cut", stores, CPU, stop_at(iteration))
    assert not is_done(tmp_path / "cut")

    pretrain(config, tmp_path / "cut", stores, CPU, quiet)

    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    assert_same_weights(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    best = "best.ckpt"
    assert_same_weights(weights(tmp_path / "cut", best), weights(tmp_path / "whole", best))


def test_seconds_are_those_of_training_and_go_on_where_a_run_was_stopped(
    stores, tmp_path, monkeypatch
):
    clock = SimpleNamespace(perf_counter=itertools.count().__next__)  # a second from look to look
    monkeypatch.setattr(pretraining, "time", clock)
    with pytest.raises(Stop):
        pretrain(make_config(), tmp_path, stores, CPU, stop_at(4))
    pretrain(make_config(), tmp_path, stores, CPU, quiet)
    assert results.read_table(tmp_path / CURVE_FILE)["seconds"].to_pylist() == [1, 1, 2, 2, 3, 3]


def test_compiled_run_has_the_losses_of_the_plain_one(stores, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(
        pretraining, "compile_networks", lambda *a: compiled.append(a) or compile_networks(*a)
    )
    for name, trial in (("plain", {"runtime.compile": False}), ("compiled", {})):
        pretrain(make_config(trial), tmp_path / name, stores, CPU, quiet)

    ((model, (optimizer,)),) = compiled
    assert model.encoder[0].uses_kernels
    assert optimizer.uses_kernels
    plain, found = (
        results.read_table(tmp_path / name / CURVE_FILE)["world_model_loss"].to_numpy()
        for name in ("plain", "compiled")
    )
    np.testing.assert_allclose(found, plain, rtol=1e-4)


class DeeperWorldModel(MLPWorldModel):
    def _build_dynamics(self):
        super()._build_dynamics()
        self.more = torch.nn.Linear(2, 2)


def test_resume_file_of_other_code_is_kept_and_refused(stores, tmp_path, monkeypatch):
    config, folder = make_config(), tmp_path / "run"
    with pytest.raises(Stop):
        pretrain(config, folder, stores, CPU, stop_at(4))
    path = folder / "resume.ckpt"
    whole = path.read_bytes()
    monkeypatch.setitem(WORLD_MODELS, "mlp", DeeperWorldModel)
    with pytest.raises(
        ValueError, match=r"resume\.ckpt does not fit the model .*; delete it to be"
    ):
        pretrain(config, folder, stores, CPU, quiet)
    assert path.read_bytes() == whole

    path.write_bytes(whole.replace(b"-1 ", b"-9 ", 1))
    with pytest.raises(ValueError, match="a newer pwmray wrote it, update this one; delete it to"):
        pretrain(config, folder, stores, CPU, quiet)


def test_damaged_resume_file_starts_the_run_again(stores, tmp_path, caplog):
    config = make_config()
    with pytest.raises(Stop):
        pretrain(config, tmp_path / "run", stores, CPU, stop_at(4))
    resume = tmp_path / "run" / "resume.ckpt"
    resume.write_bytes(resume.read_bytes()[:-50])
    pretrain(config, tmp_path / "run", stores, CPU, quiet)
    assert "starts again" in caplog.text
    assert [row["iteration"] for row in curve(tmp_path / "run")] == [2, 2, 4, 4, 6, 6]


def test_run_begun_on_other_data_is_refused_and_kept(stores, tmp_path):
    config = make_config()
    with pytest.raises(Stop):
        pretrain(config, tmp_path / "run", stores, CPU, stop_at(4))
    begun = (tmp_path / "run" / "resume.ckpt").read_bytes()
    others = [make_store(tmp_path, task, num_episodes=11) for task in TASKS]
    with pytest.raises(
        ValueError, match=r"fingerprint .{16}, but the data now has .{16}: bring the old"
    ):
        pretrain(config, tmp_path / "run", others, CPU, quiet)
    assert (tmp_path / "run" / "resume.ckpt").read_bytes() == begun


def test_loss_that_is_not_finite_ends_the_run_and_keeps_what_was_good(stores, tmp_path):
    folder = tmp_path / "run"
    diverging = make_config({"learner.model_lr": 1e30, "learner.model_clip": 1e30})
    with pytest.raises(FloatingPointError, match=r"diverged: \w+ is nan by iteration \d"):
        pretrain(diverging, folder, stores, CPU, quiet)
    assert not is_done(folder)
    assert claim.owner(folder / "claim") is None


def test_loss_on_the_episodes_held_out_must_be_finite_too(stores):
    pretrainer = make_pretrainer(make_config(), stores)
    torch.nn.init.constant_(pretrainer.model.reward_head[-1].weight, float("nan"))
    with pytest.raises(FloatingPointError, match="diverged: reward_loss is nan by iteration 0"):
        pretrainer.held_out_losses()


def test_second_process_is_refused_and_told_who_is_at_it(stores, tmp_path):
    held = claim.acquire(tmp_path / "run" / "claim")
    with held, pytest.raises(ValueError, match="another process pretrains in") as refused:
        pretrain(make_config(), tmp_path / "run", stores, CPU, quiet)
    assert f"pid {os.getpid()} on {socket.gethostname()}" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_process_that_waited_while_another_finished_trains_nothing(stores, tmp_path):
    folder = tmp_path / "run"
    pretrain(make_config(), folder, stores, CPU, quiet)
    before = (folder / "last.ckpt").stat().st_mtime_ns
    pretrain(make_config(), folder, stores, CPU, stop_at(0))
    assert (folder / "last.ckpt").stat().st_mtime_ns == before


def test_run_that_another_process_took_over_writes_nothing_more(stores, tmp_path):
    folder = tmp_path / "run"

    def take_over(_, done, __):
        if done == 4:
            (folder / "claim").write_text(json.dumps({"token": "x", "pid": 7, "host": "other"}))

    with pytest.raises(ElsewhereError, match="run was taken over by pid 7 on other"):
        pretrain(make_config(), folder, stores, CPU, take_over)
    assert {row["iteration"] for row in curve(folder)} == {2, 4}
    assert not (folder / "last.ckpt").exists()


def test_run_clears_what_killed_processes_left(stores, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".resume.ckpt.1234.tmp").write_bytes(b"half")
    pretrain(make_config(), folder, stores, CPU, quiet)
    (folder / "resume.ckpt").write_bytes(b"left by a kill")
    assert clear_leftovers(folder)
    assert not [path.name for path in folder.iterdir() if path.suffix == ".tmp"]
    assert not (folder / "resume.ckpt").exists()


def test_full_disk_is_waited_for_and_named_when_it_stays_full(stores, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "_POLL_SECONDS", 0.01)
    write, refused = checkpoint_file.write, []

    def refuse_once(path, *content):
        if path.name == "resume.ckpt" and not refused:
            refused.append(path)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, *content)

    monkeypatch.setattr(checkpoint_file, "write", refuse_once)
    pretrain(make_config(), tmp_path / "run", stores, CPU, quiet)
    assert refused
    refused.clear()
    impatient = make_config({"runtime.disk_wait_seconds": 0.0})
    with pytest.raises(OSError, match="No space left on device") as error:
        pretrain(impatient, tmp_path / "full", stores, CPU, quiet)
    assert error.value.filename == str(tmp_path / "full")


# A checkpoint that is gone.


def test_best_model_that_is_gone_is_made_from_the_last_where_that_was_the_best(stores, tmp_path):
    config, folder = make_config({"learner.model_lr": 1e-2}, iterations=4), tmp_path / "run"
    pretrain(config, folder, stores, CPU, quiet)
    assert best_iteration(curve(folder)) == 4
    before = load_world_model(folder / "best.ckpt")
    (folder / "best.ckpt").unlink()
    assert not is_done(folder)
    pretrain(config, folder, stores, CPU, stop_at(0))
    after = load_world_model(folder / "best.ckpt")
    assert_same_weights(after.state, before.state)
    assert (after.training, after.run_iterations) == (before.training, 4)


@pytest.mark.parametrize("lost_at", ["in its middle", "at its end"])
def test_best_model_that_cannot_be_made_again_is_one_line(lost_at, stores, tmp_path):
    config, folder = make_config(), tmp_path / "run"
    if lost_at == "in its middle":
        with pytest.raises(Stop):
            pretrain(config, folder, stores, CPU, stop_at(4))
        resume = checkpoint_file.read(folder / "resume.ckpt", FORMAT, CPU)
        for row in resume["rows"]:
            row["world_model_loss"] += row["iteration"]  # the first is the best
        checkpoint_file.write(folder / "resume.ckpt", FORMAT, resume)
    else:
        pretrain(config, folder, stores, CPU, quiet)
        (folder / "curve.arrow").unlink()
    (folder / "best.ckpt").unlink()
    with pytest.raises(ValueError, match=r"best.ckpt is gone, .*: copy it back, or delete .*run"):
        pretrain(config, folder, stores, CPU, quiet)


# What defines it.


def test_seed_is_another_pretraining_and_by_default_0():
    (one, *_), (held, *_) = (
        dataclasses.replace(pair, **given).configs("tiny") for given in ({}, {"hold": {"seed": 7}})
    )
    varied = dataclasses.replace(pair, vary={**pair.vary, "seed": [0, 1, 2]}).configs("tiny")
    assert (one.seed, held.seed) == (0, 7)
    assert held.label == "mlp world model, corrected, seed 7"
    assert [config.seed for config in varied] == [0, 1, 2, 0, 1, 2]
    assert len({config.fingerprint for config in varied}) == 6
    assert varied[0].fingerprint == one.fingerprint


def test_fingerprint_of_the_default_seed_stays_what_it_was():
    assert make_config().fingerprint == "98e8b08ce991fe73"


@pytest.mark.parametrize("key", ["task", "epochs"])
def test_what_only_a_trial_has_is_refused(key, capsys, tmp_path):
    wrong = dataclasses.replace(pair, hold={key: TASKS[0]})
    code, _, err = run(capsys, "--plan", "--results", tmp_path / "r", of=wrong)
    assert (code, len(err)) == (2, 1)
    assert (
        f"pretraining pair sets {key!r}, which only a trial has; its tasks and iterations" in err[0]
    )


def test_seed_that_is_none_is_one_line(capsys, tmp_path):
    wrong = dataclasses.replace(pair, hold={"seed": -1})
    code, _, err = run(capsys, "--plan", "--results", tmp_path / "r", of=wrong)
    assert (code, len(err)) == (2, 1)
    assert "seed is -1" in err[0]


@pytest.mark.parametrize(
    "trial",
    [
        {"world_model.latent_dim": 8},
        {"learner.model_lr": 1e-2},
        {"learner.wm_horizon": 3},
        {"learner.reward_weight": 2.0},
        {"data.num_episodes": 7},
    ],
)
def test_fingerprint_depends_on_the_model_its_loss_and_its_data(trial):
    assert make_config(trial).fingerprint != make_config().fingerprint


class Watched:
    """Settings that remember which of them were read."""

    def __init__(self, settings):
        self._settings, self.read = settings, set()

    def __getattr__(self, name):
        self.read.add(name)
        return getattr(self._settings, name)


@pytest.mark.parametrize("kind", ["mlp", "flow"])
def test_fingerprint_has_every_setting_of_the_learner_that_a_pretraining_reads(kind, stores):
    config = make_config({"world_model.kind": kind})
    watched = Watched(config.trial.learner)
    model = build_parts(config.trial).world_model
    Pretrainer(model, stores, config.settings, watched, 0, CPU).train(1)  # type: ignore[arg-type]
    assert {"model_lr", "reward_weight"} <= watched.read
    assert watched.read <= set(config.to_dict()["loss"])


@pytest.mark.parametrize("scale", [{"tasks": TASKS[:1]}, {"iterations": 7}, {"batch_size": 9}])
def test_fingerprint_depends_on_the_tasks_and_settings(scale):
    assert make_config(**scale).fingerprint != make_config().fingerprint


@pytest.mark.parametrize(
    "trial", [{"policy.units": (8,)}, {"epochs": 9}, {"seed": 3}, {"learner.actor_lr": 1e-2}]
)
def test_fingerprint_does_not_depend_on_the_policy(trial):
    assert make_config(trial).fingerprint == make_config().fingerprint


@pytest.mark.parametrize("setting", ["world_model.wrap_angles", "world_model.standardize"])
def test_kinds_are_a_matched_pair_only_if_both_read_observations_alike(setting):
    ours, others = (make_config({"world_model.kind": kind}).shared for kind in ("mlp", "flow"))
    assert ours == others
    one, other = (make_config({setting: value}).shared for value in (True, False))
    assert one != other


def test_published_flow_is_another_model_and_a_published_mlp_is_not():
    published = {"fidelity": "published"}
    flow = {"world_model.kind": "flow"}
    assert make_config(published).fingerprint == make_config().fingerprint
    assert make_config(published | flow).fingerprint != make_config(flow).fingerprint
    assert make_config(published | flow).fidelity.name == "published"


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        ({"iteratons": 9}, "unknown setting of the scale's pretrain 'iteratons'; did you mean 'it"),
        ({"seed": 1}, "unknown setting of the scale's pretrain 'seed'.* valid: tasks, iterations"),
        ({"iterations": "9"}, "setting of the scale's pretrain 'iterations' is '9'; it must be of"),
        ({"iterations": True}, "'iterations' is True; it must be of type int"),
        ({"held_out_share": None}, "'held_out_share' is None; it must be of type float"),
        ({"tasks": "pendulum-spin"}, "'tasks' is 'pendulum-spin'; it must be of type tuple"),
        ({"tasks": ()}, "the scale's pretrain has no tasks"),
        ({"tasks": ("pendulum-spn",)}, "unknown task 'pendulum-spn'; did you mean 'pendulum-spin'"),
    ],
)
def test_what_is_wrong_in_a_scales_pretrain_is_named(scale, said):
    with pytest.raises(ValueError, match=said):
        make_config(**scale)


@pytest.mark.parametrize("command", [["--plan"], []], ids=["plan", "run"])
@pytest.mark.parametrize(
    ("scale", "said"),
    [
        ({"pretrain": {"iterations": 3}}, "the scale's pretrain lacks tasks"),
        ({}, "the scale's pretrain is None; it must be a mapping that has tasks and may have it"),
        ({"pretrain": {**SCALE, "batch": 3}}, "'batch'; did you mean 'batch_size'"),
    ],
)
def test_scale_that_does_not_say_how_to_pretrain_is_one_line(
    capsys, tmp_path, scale, said, command
):
    wrong = dataclasses.replace(pair, scales={"tiny": {**SCALES["tiny"], **scale}})
    code, _, err = run(capsys, *command, "--results", tmp_path / "r", of=wrong)
    assert (code, len(err)) == (2, 1)
    assert said in err[0]
    assert not list(tmp_path.iterdir())


def test_setting_out_of_range_is_named():
    with pytest.raises(ValueError, match=r"pretrain\.iterations is 0"):
        make_config(iterations=0)


# The command.

pair = Pretraining(
    name="pair",
    vary={"world_model.kind": ["mlp", "flow"]},
    scales={"tiny": {**SCALES["tiny"], "pretrain": {**SCALE, "tasks": TASKS[:1]}}},
)


run = functools.partial(planned_sweeps.run, of=pair)


def test_plan_says_what_would_run_and_writes_nothing(capsys, tmp_path):
    code, out, _ = run(capsys, "--plan", "--results", tmp_path / "r", "--data", tmp_path / "d")
    assert code == 0
    assert out.count("missing; 6 iterations of 8 windows of pendulum-spin") == 2
    assert not list(tmp_path.iterdir())


def test_plan_tells_the_time_and_the_disk_that_each_takes(capsys, tmp_path):
    minutes = {"mlp": 5_000.0, "flow": 40_000.0}  # for 1,000 iterations, of which there are 6
    scale = {**pair.scales["tiny"], "pretraining_minutes": minutes, "device": "GPU"}
    priced = dataclasses.replace(pair, scales={"tiny": scale})
    places = ("--plan", "--results", tmp_path / "r", "--data", tmp_path / "d")
    _, listed, _ = run(capsys, *places, "--format", "json", of=priced)
    found = json.loads(listed)
    assert [(one["minutes_left"], one["priced_by"]) for one in found] == [
        (30.0, "the scale's guess"),
        (240.0, "the scale's guess"),
    ]
    models = [build_parts(config.trial).world_model for config in priced.configs("tiny")]
    sizes = [sum(one.numel() for one in model.parameters()) for model in models]
    # Its best model, and twice what it resumes from: weights and Adam's two moments, in float32.
    assert [one["disk_mb"] for one in found] == [round(28 * size / 1e6, 3) for size in sizes]
    assert [one["parameters"] for one in found] == sizes
    _, out, _ = run(capsys, *places, of=priced)
    assert [line.split("; ", 2)[2] for line in out.splitlines()[:2]] == [
        f"{28 * sizes[0] / 1e6:.1f} MB; about 30.0 GPU minutes by the scale's guess",
        f"{28 * sizes[1] / 1e6:.1f} MB; about 4.0 GPU hours by the scale's guess",
    ]


@pytest.mark.parametrize(
    ("hold", "options", "is_found"),
    [
        ({}, (), True),
        ({"seed": 2, "size": "laptop", "fidelity": "published"}, (), True),
        ({"learner.model_lr": 0.01}, (), False),
        ({"data.seed": 1}, (), False),
        ({}, ("--tasks", "cup-spin"), False),
    ],
)
def test_model_that_no_sweep_finds_by_itself_is_told(hold, options, is_found, capsys, tmp_path):
    held = dataclasses.replace(pair, hold=hold)
    places = ("--plan", "--results", tmp_path / "r", "--data", tmp_path / "d")
    _, out, _ = run(capsys, *places, *options, of=held)
    paths = re.findall(r"note: .* do not find it by themselves, .* --world-model (.*)", out)
    _, listed, _ = run(capsys, *places, *options, "--format", "json", of=held)
    assert paths == ([] if is_found else [made["path"] for made in json.loads(listed)])
    assert [made["is_found"] for made in json.loads(listed)] == [is_found] * 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--scale", "tny"), "unknown scale 'tny'; did you mean 'tiny'"),
        (("--tasks", "pendulum-spn"), "unknown task 'pendulum-spn'; did you mean 'pendulum-spin'"),
        (("--tasks", "pendulum-spin,pendulum-spin"), "is given twice"),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, arguments, said):
    code, _, err = run(capsys, *arguments, "--results", tmp_path / "r")
    assert code == 2
    assert len(err) == 1
    assert said in err[0]
    assert not list(tmp_path.iterdir())


def test_second_run_trains_nothing(capsys, tmp_path):
    places = ("--results", tmp_path / "r", "--data", tmp_path / "d")
    assert run(capsys, *places)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.ckpt")}
    code, out, _ = run(capsys, *places)
    assert code == 0
    assert out.count(": done;") == 2
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.ckpt")} == before
    assert len(before) == 4


@pytest.mark.parametrize("looks_too_early", [[], [None]])
def test_one_that_another_process_makes_comes_last_and_is_taken_over(
    looks_too_early, capsys, tmp_path, monkeypatch
):
    mlp, flow = (config.folder(tmp_path / "r") for config in pair.configs("tiny"))
    held, look = claim.acquire(mlp / "claim"), pretrain_command.holder_of
    looks = [*looks_too_early]
    monkeypatch.setattr(
        pretrain_command, "holder_of", lambda folder: looks.pop() if looks else look(folder)
    )

    def wait(_):
        assert is_done(flow)
        held.release()

    monkeypatch.setattr(pretrain_command, "time", SimpleNamespace(sleep=wait))
    code, out, err = run(capsys, "--results", tmp_path / "r", "--data", tmp_path / "d")
    assert code == 0
    assert [line for line in out.splitlines() if "best.ckpt" in line] == [
        f"flow world model, corrected: {flow / 'best.ckpt'}",
        f"mlp world model, corrected: {mlp / 'best.ckpt'}",
    ]
    whose = f"by pid {os.getpid()} on {socket.gethostname()}, 0/6"
    assert any(f"waiting for: mlp world model, corrected, {whose}" in line for line in err)


def test_wait_for_another_process_ends_with_ctrl_c(capsys, tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    for config in pair.configs("tiny")[1:]:
        held = claim.acquire(config.folder(tmp_path / "r") / "claim")
    monkeypatch.setattr(pretrain_command.time, "sleep", interrupt)
    with held:
        code, _, err = run(capsys, "--results", tmp_path / "r", "--data", tmp_path / "d")
    assert code == 130
    assert err[-2].startswith("go on with: python ")


def test_process_told_of_its_end_is_to_be_gone_on_with(capfd, tmp_path, monkeypatch):
    told = []

    def tell(_):
        assert not told
        told.append(os.kill(os.getpid(), signal.SIGUSR1))

    for config in pair.configs("tiny")[1:]:
        held = claim.acquire(config.folder(tmp_path / "r") / "claim")
    monkeypatch.setattr(pretrain_command.time, "sleep", tell)
    monkeypatch.setattr(pretrain_command.os, "_exit", sys.exit)
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with held:
            code, _, err = run(capfd, "--results", tmp_path / "r", "--data", tmp_path / "d")
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert code == 75
    assert [line for line in err if line.startswith("asked to stop; go on with: python ")]


def test_process_told_of_its_end_has_said_what_it_did():
    code = """
import os, signal
from pwmray.pretrain_command import _ending_when_asked
with _ending_when_asked("python x.py"):
    print("one is done")
    os.kill(os.getpid(), signal.SIGUSR1)
"""
    pipe, variables = subprocess.PIPE, {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run([sys.executable, "-c", code], env=variables, stdout=pipe, text=True)
    assert (done.returncode, done.stdout) == (75, "one is done\n")


def test_full_disk_is_told_before_anything_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("pwmray.room.free_bytes", lambda _: 1000)
    code, _, err = run(capsys, "--results", tmp_path / "r", "--data", tmp_path / "d")
    assert (code, len(err)) == (2, 1)
    assert f"no room for the pretrainings: 0.1 MB needed, {tmp_path} has 0.0 MB" in err[0]
    assert not list(tmp_path.iterdir())


def test_diverging_pretraining_is_one_line_and_exit_code_1(capsys, tmp_path):
    hold = {"learner.model_lr": 1e30, "learner.model_clip": 1e30}
    places = ("--results", tmp_path / "r", "--data", tmp_path / "d")
    code, _, err = run(capsys, *places, of=dataclasses.replace(pair, hold=hold))
    assert code == 1
    assert err[-1].startswith("failed: mlp world model, corrected: diverged: ")
    assert not [line for line in err if "Traceback" in line]


def test_resume_file_of_another_format_is_not_taken(stores, tmp_path, caplog):
    folder = tmp_path / "run"
    checkpoint_file.write(folder / "resume.ckpt", "pwmray-other-1", {})
    pretrain(make_config(), folder, stores, CPU, quiet)
    assert "starts again" in caplog.text


def test_settings_are_plain_data():
    assert dataclasses.asdict(make_config().settings)["iterations"] == 6

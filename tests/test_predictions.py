"""`pwmray predict` and its tables: all of a task's world models on the same episodes."""

import contextlib
import dataclasses
import datetime
import json

import numpy as np
import pytest
import torch

from analysis.load import load_sweep
from analysis.predictions import measure_predictions
from analysis.report import summarize_sweep
from pwmray import cli, predictions, registry, results
from pwmray.agent import load_agent
from pwmray.algorithm.evaluate import POLICY_GROUP
from pwmray.commands import predict as predict_command
from pwmray.envs.vector import make_vector
from pwmray.registry import Status
from pwmray.tables import Tables
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM
from tests.made_trials import CPU, ask_for, make_config, open_trial, run_to_the_end

SEEDS = (42, 123)
NUM_STEPS = 3  # the tiny policies' horizon
NUM_WINDOWS = 2 * 3 * 2  # of two trials, in three short episodes each


@pytest.fixture(scope="module")
def made(tmp_path_factory, data):
    """Return the folder of a sweep of two seeds that were trained and evaluated."""
    folder = tmp_path_factory.mktemp("results")
    configs = [
        make_config("baseline", seed=seed, epochs=2, **{"evaluation.plan_episodes": 0})
        for seed in SEEDS
    ]
    for config in configs:
        trial = registry.trial_folder(folder, config.fingerprint)
        ask_for(config, trial)
        run_to_the_end(open_trial(config, trial, data))
    return write_sweep(folder / "tiny", [config.fingerprint for config in configs])


def write_sweep(folder, trials):
    described = {"name": folder.name, "scale": "tiny", "trials": trials, "compare": "seed"}
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps({**described, "varies": ["task", "seed"]}))
    Tables(folder).write()
    return folder


@pytest.fixture
def sweep(made, tmp_path):
    """Return a sweep's folder of the test's own, whose trials are links to the made ones."""
    for name in trials_of(made):
        copy = registry.trial_folder(tmp_path, name)
        copy.mkdir(parents=True)
        for file in registry.trial_folder(made.parent, name).iterdir():
            (copy / file.name).symlink_to(file)
    return write_sweep(tmp_path / "tiny", trials_of(made))


@pytest.fixture
def agents(made):
    return [load_agent(registry.trial_folder(made.parent, name), CPU) for name in trials_of(made)]


def trials_of(folder):
    return json.loads((folder / "sweep.json").read_text())["trials"]


def change_record(folder, place, before, after):
    """Change what the record of a sweep's trial says; return the trial's folder."""
    trial = registry.trial_folder(folder.parent, trials_of(folder)[place])
    events = (trial / "events.jsonl").read_text()
    assert before in events
    (trial / "events.jsonl").unlink()
    (trial / "events.jsonl").write_text(events.replace(before, after))
    return trial


def predict(folder, *options):
    return cli.main(["predict", folder.name, "--results", str(folder.parent), *options])


def rows_of(folder, task="pendulum-spin"):
    path = folder / "predictions" / f"{task}.arrow"
    return results.read_table(path, results.PREDICTIONS).to_pylist()


# What is predicted.


def test_windows_are_the_agents_own_episodes(agents):
    agent = agents[0]
    windows = predictions.record_windows(agent, range(7, 9), 100, lambda _: None)
    environment = make_vector("pendulum-spin", 1)
    obs, _ = environment.reset(seed=[8])
    for step in range(500):
        padded = torch.zeros(POLICY_GROUP, MAX_OBS_DIM)  # as many rows as an evaluation has
        padded[0, : obs.shape[1]] = torch.from_numpy(obs[0])
        window, place = 2 * (step // 100) + 1, step % 100  # of the second episode
        if place == 0:
            assert torch.equal(windows.obs_BO[window], padded[0])
        action = agent.learner.act(padded)[0, :1]
        assert torch.equal(windows.a_HBA[place, window, :1], action)
        obs, reward, *_ = environment.step(action[None].numpy())
        assert windows.r_HB[place, window].item() == pytest.approx(np.log1p(reward[0]), abs=1e-6)
    assert windows.r_HB.shape == (100, 10)
    assert not windows.a_HBA[..., 1:].any()


@pytest.mark.parametrize(("num_steps", "last"), [(1, 475), (26, 468), (150, 300), (500, 0)])
def test_windows_begin_every_25_steps_or_one_after_the_other(agents, num_steps, last):
    done, learner = [0], agents[0].learner
    learner.act = lambda obs_BO: torch.full((len(obs_BO), MAX_ACTION_DIM), done[-1] / 500)
    windows = predictions.record_windows(agents[0], range(1), num_steps, done.append)
    starts = range(0, last + 1, max(num_steps, 25))
    taken = [[(start + step) / 500 for start in starts] for step in range(num_steps)]
    assert windows.a_HBA[..., 0].tolist() == [pytest.approx(row) for row in taken]
    assert windows.r_HB.shape == (num_steps, len(starts))


def test_reward_depends_on_the_actions_up_to_it_and_on_none_after(agents):
    learner, generator = agents[0].learner, torch.Generator().manual_seed(0)
    with torch.no_grad():  # a new one is zero, and predicts the same whatever happens
        learner.world_model.reward_head[-1].weight.normal_(generator=generator)
    obs_BO = torch.rand(4, MAX_OBS_DIM, generator=generator)
    a_HBA = torch.rand(5, 4, MAX_ACTION_DIM, generator=generator)
    before = predictions.predict_rewards(learner, obs_BO, a_HBA)
    a_HBA[2] = -a_HBA[2]
    after = predictions.predict_rewards(learner, obs_BO, a_HBA)
    assert torch.equal(after[:2], before[:2])
    assert (after[2:] != before[2:]).all()


def test_first_reward_is_that_of_the_observation(agents):
    learner = agents[0].learner
    obs_BO, a_BA = torch.rand(4, MAX_OBS_DIM), torch.rand(4, MAX_ACTION_DIM)
    model, e_BT = learner.world_model, learner.world_model.embed(learner.task).expand(4, -1)
    r_B1 = model.reward(model.encode(obs_BO, e_BT), e_BT, a_BA)
    found = predictions.predict_rewards(learner, obs_BO, a_BA[None])
    assert torch.equal(found[0], r_B1.detach()[:, 0])


@pytest.mark.parametrize("num_rows", [4, 1024])
def test_error_of_a_model_that_predicts_nothing_is_the_size_of_the_rewards(
    agents, num_rows, monkeypatch
):
    monkeypatch.setattr(predictions, "_ROWS", num_rows)
    learner = agents[0].learner
    for parameter in learner.world_model.reward_head[-1].parameters():
        parameter.data.zero_()  # all bins alike: 0 is expected
    r_HB = torch.rand(3, 10)
    windows = predictions.Windows(
        torch.rand(10, MAX_OBS_DIM), torch.rand(3, 10, MAX_ACTION_DIM), r_HB
    )
    sizes = (r_HB.numpy() ** 2).mean(1) ** 0.5
    assert predictions.measure_errors(learner, windows) == pytest.approx(sizes, abs=1e-6)
    assert predictions.measure_spreads(windows) == pytest.approx(r_HB.numpy().std(1))


def test_world_models_are_one_where_their_weights_and_settings_are(agents):
    first, second = (agent.learner.world_model for agent in agents)
    assert predictions.digest(first) != predictions.digest(second)
    second.load_state_dict(first.state_dict())
    assert predictions.digest(first) == predictions.digest(second)
    second.config = dataclasses.replace(second.config, wrap_angles=True)
    assert predictions.digest(first) != predictions.digest(second)
    second.config = first.config
    second.obs_std[3] += 1.0
    assert predictions.digest(first) != predictions.digest(second)


# The command.


@pytest.mark.usefixtures("short_episodes")
def test_every_model_is_measured_on_what_all_agents_did(sweep, agents, capsys):
    assert predict(sweep) == 0
    said = capsys.readouterr().out
    assert f"2 world models of 2 trials, on {NUM_WINDOWS} windows of 3 steps" in said
    assert f"summarize.py tiny --results {sweep.parent}`" in said
    parts = [
        predictions.record_windows(agent, range(1_000_000, 1_000_003), NUM_STEPS, lambda _: None)
        for agent in agents
    ]
    windows = predictions.join(parts)
    rows = rows_of(sweep)
    assert [(row["trial"], row["step"]) for row in rows] == [
        (name, step) for name in trials_of(sweep) for step in (1, 2, 3)
    ]
    for place, agent in enumerate(agents):
        mine = rows[3 * place : 3 * place + 3]
        errors = predictions.measure_errors(agent.learner, windows)
        assert [row["error"] for row in mine] == pytest.approx(errors, rel=1e-5)
        assert [row["reward_sd"] for row in mine] == predictions.measure_spreads(windows)
        assert {(row["windows"], row["agents"]) for row in mine} == {(NUM_WINDOWS, 2)}


@pytest.mark.usefixtures("short_episodes")
def test_episodes_and_steps_are_chosen(sweep):
    assert predict(sweep, "--episodes", "1", "--steps", "25", "--device", "cpu") == 0
    rows = rows_of(sweep)
    assert max(row["step"] for row in rows) == 25
    assert {row["windows"] for row in rows} == {4}


@pytest.mark.usefixtures("short_episodes")
def test_progress_gives_each_trial_a_turn_to_act_and_one_to_predict(sweep, monkeypatch):
    told = []
    progress = contextlib.nullcontext(lambda *step: told.append(step))
    monkeypatch.setattr(predict_command, "show_progress", lambda _: progress)
    assert predict(sweep) == 0
    acting = [done for what, done, _ in told if what == "pendulum-spin, acting"]
    assert [min(acting), max(acting)] == [1, 500 + 50]  # the second one's last of 50 steps
    assert told[-2:] == [("pendulum-spin, predicting", done, 4 * 500) for done in (1000, 1500)]
    later = predict_command._Turns(lambda *step: told.append(step), first=4, total=4000)
    later.count("another task, acting", 1)(7)
    assert told[-1] == ("another task, acting", 5 * 500 + 7, 4000)


@pytest.mark.usefixtures("short_episodes")
def test_checkpoint_that_cannot_be_read_is_named_and_left_out(sweep, capsys):
    path = registry.trial_folder(sweep.parent, trials_of(sweep)[0]) / "checkpoint.pt"
    path.unlink()
    path.write_bytes(b"cut")
    assert predict(sweep) == 0
    said = capsys.readouterr().out
    assert said.count(f"left out: {path}") == 1
    assert "1 world model of 1 trial" in said
    assert {row["trial"] for row in rows_of(sweep)} == {trials_of(sweep)[1]}


@pytest.mark.usefixtures("short_episodes")
def test_agents_act_equally_often_and_are_followed_as_far_as_any_of_them_looks(sweep):
    change_record(sweep, 0, '"horizon": 3', '"horizon": 4')
    change_record(sweep, 1, '"final_episodes": 3', '"final_episodes": 2')
    assert predict(sweep) == 0
    rows = rows_of(sweep)
    assert max(row["step"] for row in rows) == 4
    assert {row["windows"] for row in rows} == {2 * 2 * 2}


def test_evaluated_trials_of_the_chosen_tasks_are_measured_and_no_others(tmp_path, capsys):
    tasks = {"pendulum-spin": Status.EVALUATED, "cup-spin": Status.EVALUATED}
    folders = {}
    for task, status in (*tasks.items(), ("pendulum-spin", Status.RUNNING)):
        config = make_config("baseline", task=task, seed=len(folders))
        folder = folders[task, status] = registry.trial_folder(tmp_path, config.fingerprint)
        ask_for(config, folder)
        for reached in (Status.RUNNING, Status.COMPLETED, Status.EVALUATED):
            if registry.read(folder).status is not status:
                registry.record(folder, reached)
        (folder / "checkpoint.pt").write_bytes(b"cut")  # so that it is named
    sweep = write_sweep(tmp_path / "tiny", [folder.name for folder in folders.values()])
    capsys.readouterr()
    assert predict(sweep, "--tasks", "pendulum-spin") == 2
    named = [line.split()[2] for line in capsys.readouterr().out.splitlines()]
    assert named == [str(folders["pendulum-spin", Status.EVALUATED] / "checkpoint.pt")]


@pytest.mark.usefixtures("short_episodes")
def test_trial_of_another_version_is_named_and_left_out(sweep, capsys):
    folder = change_record(sweep, 1, '"wm_horizon"', '"wm_reach"')
    assert predict(sweep) == 0
    said = capsys.readouterr().out
    assert f"left out: {folder}: unknown" in said and "'learner.wm_reach'" in said
    assert "1 world model of 1 trial" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--episodes", "0"), "--episodes is 0; it must be 1 or more"),
        (("--steps", "0"), "--steps is 0; valid: 1 to 500"),
        (("--steps", "501"), "--steps is 501; valid: 1 to 500"),
        (("--tasks", "walker-run"), "unknown task 'walker-run'"),
    ],
)
def test_refusal_names_the_option_and_what_is_valid(made, options, said, capsys):
    assert predict(made, *options) == 2
    assert said in capsys.readouterr().err
    assert not (made / "predictions").exists()


def test_sweep_without_checkpoints_is_refused(sweep, capsys):
    for name in trials_of(sweep):
        (registry.trial_folder(sweep.parent, name) / "checkpoint.pt").unlink()
    assert predict(sweep) == 2
    said = capsys.readouterr().err
    assert f"no trial of {sweep} is evaluated and has its checkpoint" in said


@pytest.mark.usefixtures("short_episodes")
def test_trials_whose_checkpoints_are_gone_are_counted(sweep, capsys):
    (registry.trial_folder(sweep.parent, trials_of(sweep)[0]) / "checkpoint.pt").unlink()
    assert predict(sweep) == 0
    said = capsys.readouterr().out
    assert "left out, because their checkpoints are gone: 1 trial\n" in said
    assert "1 world model of 1 trial" in said


def test_folder_that_is_anothers_is_refused_before_anybody_acts(sweep, monkeypatch, capsys):
    (sweep / "predictions").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: path != sweep / "predictions")
    monkeypatch.delattr("pwmray.predictions.record_windows")
    assert predict(sweep) == 2
    assert f"{sweep / 'predictions'} is not yours to write to" in capsys.readouterr().err


@pytest.mark.usefixtures("short_episodes")
def test_printed_command_can_be_typed_where_a_path_has_spaces(sweep, capsys):
    results_dir = sweep.parent / "my results"
    results_dir.mkdir()
    for name in ("tiny", "trials"):
        (sweep.parent / name).rename(results_dir / name)
    assert predict(results_dir / "tiny") == 0
    assert f"summarize.py tiny --results '{results_dir}'`" in capsys.readouterr().out


def test_damaged_checkpoints_alone_are_an_error(sweep, capsys):
    for name in trials_of(sweep):
        path = registry.trial_folder(sweep.parent, name) / "checkpoint.pt"
        path.unlink()
        path.write_bytes(b"cut")
    assert predict(sweep) == 2
    assert f"no agent of {sweep} could be loaded" in capsys.readouterr().err
    assert not list((sweep / "predictions").iterdir())


# What is told of them.


@pytest.mark.usefixtures("short_episodes")
def test_measured_errors_are_shares_of_the_spread(sweep):
    assert predict(sweep) == 0
    found = summarize_sweep(load_sweep(sweep)).predictions
    rows = rows_of(sweep)
    shares = [row["error"] / row["reward_sd"] for row in rows]
    assert [found[0].models] == [(tuple(shares[:3]), tuple(shares[3:]))]
    assert (found[0].num_windows, found[0].num_agents, found[0].num_trials) == (NUM_WINDOWS, 2, 2)


@pytest.mark.usefixtures("short_episodes")
def test_trial_that_was_run_anew_since_is_not_told_of(sweep):
    assert predict(sweep) == 0
    rows = rows_of(sweep)
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    for row in rows[:3]:
        row["measured_at"] = long_ago
    results.write_rows(sweep / "predictions" / "pendulum-spin.arrow", rows, results.PREDICTIONS)
    loaded = load_sweep(sweep)
    (found,) = measure_predictions(loaded, summarize_sweep(loaded).arms)
    assert (len(found.models), found.num_trials) == (1, 1)

"""`pwmray evaluate`: the trial's own numbers, whatever runs beside them; refusals; the video."""

import os
import subprocess
import sys
from types import SimpleNamespace

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from dm_control.rl.control import PhysicsError

from pwmray import checkpoint_file, cli, registry, results, video
from pwmray.agent import load_agent
from pwmray.algorithm import checkpoint
from pwmray.algorithm.evaluate import PLANNER_GROUP, POLICY_GROUP
from pwmray.build import build_learner
from pwmray.commands.evaluate import _SIDE_BY_SIDE, _plan_seeds, run_episodes
from pwmray.data.collected import ensure_data
from pwmray.envs.vector import make_vector
from pwmray.tasks import EPISODE_STEPS
from tests import small_disk
from tests.made_trials import ask_for, make_config, open_trial, run_to_the_end, write_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """Return the folder of a trial that was trained and evaluated."""
    folder, config = tmp_path_factory.mktemp("results") / "trial", make_config("baseline")
    data = ensure_data(config.task, config.data, folder.parent, make_vector)
    ask_for(config, folder)
    run_to_the_end(open_trial(config, folder, data))
    return folder


@pytest.fixture
def agent(trial):
    return load_agent(trial, CPU)


def own_returns(trial, actor):
    rows = results.read_table(trial / "evaluations.arrow").to_pylist()
    return [row["return"] for row in rows if row["actor"] == actor]


# Numbers.


def test_returns_are_those_of_the_trials_own_evaluation(trial, agent):
    assert agent.learner.critics.uses_kernels
    evaluation = agent.config.evaluation
    policy = run_episodes(agent, evaluation.final_seeds, agent.policy)
    planner = run_episodes(agent, evaluation.plan_seeds, agent.planner)
    assert policy.returns.tolist() == own_returns(trial, results.POLICY)
    assert planner.returns.tolist() == own_returns(trial, results.PLANNER)


def test_agent_of_a_file_is_that_of_its_folder(trial, agent):
    loaded = load_agent(trial / "checkpoint.pt", CPU)
    assert loaded.digest == agent.digest
    assert loaded.epochs_reached == 6
    assert loaded.config == make_config("baseline")


def test_agent_of_a_running_trial_is_of_one_checkpoint(tmp_path, monkeypatch):
    path = write_checkpoint(tmp_path, ["pendulum-spin"])
    digest = checkpoint_file.read_header(path).digest

    def build_while_it_saves(config):
        learner = build_learner(config)
        about = {"config": config.to_dict(), "tasks": ["pendulum-spin"]}
        checkpoint.save(path, about, learner, {}, {"epochs_reached": 4})
        return learner

    monkeypatch.setattr("pwmray.agent.build_learner", build_while_it_saves)
    loaded = load_agent(path, CPU)
    assert (loaded.epochs_reached, loaded.digest) == (3, digest)
    assert checkpoint_file.read_header(path).digest != digest


@pytest.mark.parametrize(("actor", "num"), [("policy", 30), ("planner", 12)])
def test_episode_does_not_depend_on_how_many_run_beside_it(actor, num, agent, short_episodes):
    few = run_episodes(agent, range(2), getattr(agent, actor))
    many = run_episodes(agent, range(num), getattr(agent, actor))
    again = run_episodes(agent, range(2), getattr(agent, actor))
    assert few.returns.tolist() == many.returns[:2].tolist()
    assert again.returns.tolist() == few.returns.tolist()
    assert len(set(many.returns)) == num


@pytest.mark.parametrize("actor", ["policy", "planner"])
def test_episodes_run_in_several_rounds_are_those_run_at_once(
    actor, agent, monkeypatch, short_episodes
):
    at_once = run_episodes(agent, range(60), getattr(agent, actor))
    monkeypatch.setattr("pwmray.commands.evaluate._SIDE_BY_SIDE", 50)
    in_rounds = run_episodes(agent, range(60), getattr(agent, actor))
    for one, other in zip(in_rounds, at_once, strict=True):
        np.testing.assert_array_equal(one, other)


def test_as_many_simulations_run_at_once_as_whole_groups_have():
    assert _SIDE_BY_SIDE % POLICY_GROUP == _SIDE_BY_SIDE % PLANNER_GROUP == 0


def test_simulation_that_fails_is_one_line(trial, monkeypatch, capsys):
    def fail(self, actions):
        raise PhysicsError("pendulum-spin: environment 0 failed in step 1 (BADCTRL)")

    monkeypatch.setattr("pwmray.envs.lockstep.LockstepEnv.step", fail)
    assert cli.main(["evaluate", str(trial)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "error: the simulation failed under the actions of" in said
    assert said.endswith("checkpoint.pt: pendulum-spin: environment 0 failed in step 1 (BADCTRL)")


def test_command_says_whose_episodes_it_ran_and_how_they_went(trial, capsys):
    assert cli.main(["evaluate", str(trial), "--plan", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    policy, planner = own_returns(trial, results.POLICY), own_returns(trial, results.PLANNER)
    assert "baseline, seed 42, joint_from_scratch, corrected" in out
    assert "3, environment seeds 1000000 to 1000002" in out
    assert "floor        120.9 (doing nothing 103.0, at random 120.9)" in out
    sd = np.std(policy, ddof=1)
    expected = f"{np.mean(policy):.2f}, sd {sd:.2f}, min {min(policy):.2f}, max {max(policy):.2f}"
    assert f"return       {expected}" in out
    assert f"return there {np.mean(policy[:2]):.2f}, sd " in out
    assert "the first 2 of these episodes" in out
    assert f"plan return  {np.mean(planner):.2f}, sd " in out.splitlines()[-1]
    assert "evaluate: policy, 3/1500" in err
    assert "evaluate: planner, 2/1000" in err


def test_seeds_and_episodes_are_those_asked_for(trial, agent, capsys):
    arguments = ["evaluate", str(trial), "--episodes", "1", "--first-seed", "7"]
    assert cli.main(arguments) == 0
    expected = run_episodes(agent, [7], agent.policy).returns[0]
    assert f"{expected:.2f}, sd unknown" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("planned", "episodes", "first_seed", "expected"),
    [
        (2, None, None, range(1_000_000, 1_000_002)),
        (0, None, None, range(7, 10)),
        (2, 3, None, range(7, 10)),
        (2, None, 7, range(7, 10)),
    ],
)
def test_planner_acts_in_the_trials_own_planned_episodes_unless_others_are_asked_for(
    planned, episodes, first_seed, expected
):
    config = make_config(**{"evaluation.plan_episodes": planned})
    chosen = SimpleNamespace(episodes=episodes, first_seed=first_seed)
    assert _plan_seeds(SimpleNamespace(config=config), range(7, 10), chosen) == expected


def test_agent_acts_in_another_task_that_its_world_model_knows(tmp_path, capsys):
    path = write_checkpoint(tmp_path, ["pendulum-spin", "pendulum-swingup"])
    arguments = ["evaluate", str(path), "--task", "pendulum-swingup", "--episodes", "1"]
    assert cli.main(arguments) == 0
    assert "pendulum-swingup, trained on pendulum-spin" in capsys.readouterr().out
    assert load_agent(path, CPU, "pendulum-swingup").learner.task == 7


# Refusals.


def refused(capsys, *arguments):
    """Run what must be refused; return its one line."""
    assert cli.main(["evaluate", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    return err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--episodes", "0"], "--episodes is 0; it must be 1 or more"),
        (["--episodes", 5 * 10**9], "--episodes is 5000000000; there are seeds for at most 4294"),
        (["--first-seed", "-1"], "--first-seed is -1; valid: 0 to 4294967293"),
        (["--first-seed", 2**32 - 2], "--first-seed is 4294967294; valid: 0 to 4294967293"),
        (["--task", "pendlum-spin"], "unknown task 'pendlum-spin'; did you mean 'pendulum-spin'"),
        (["--task", "cup-spin"], "cannot act in 'cup-spin': it was trained on pendulum-spin"),
        (["--device", "gpu"], "unknown device 'gpu'; did you mean 'cpu'? valid: cpu, cuda"),
        (["--video", "out.avi"], "the video out.avi must be called something.mp4"),
        (["--video", "/absent/out.mp4"], "cannot write the video /absent/out.mp4"),
        (["--video", "out.mp4"], "no video: MUJOCO_GL is 'disable'; leave it unset or set it to"),
        (["--frob"], "unrecognized arguments: --frob"),
    ],
)
def test_bad_option_is_named(options, message, trial, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, trial, *options)
    assert list(tmp_path.iterdir()) == []


def test_video_that_is_there_is_not_replaced(trial, tmp_path, capsys):
    (tmp_path / "out.mp4").write_text("precious")
    line = refused(capsys, trial, "--video", tmp_path / "out.mp4")
    assert f"{tmp_path}/out.mp4 exists; pass --force to replace it" in line
    assert (tmp_path / "out.mp4").read_text() == "precious"


def test_folder_in_the_place_of_a_video_is_told_whatever_is_forced(trial, tmp_path, capsys):
    (tmp_path / "out.mp4").mkdir()
    for options in ([], ["--force"]):
        line = refused(capsys, trial, "--video", tmp_path / "out.mp4", *options)
        assert f"cannot write the video {tmp_path}/out.mp4: what is there is no file" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nonsense", "is not a checkpoint of a trial"),
        (b"pwmray-world-model-1 00\n", "holds only a world model, and no policy to act"),
        (b"pwmray-checkpoint-1 00\n", "an older pwmray wrote it, whose files this one does not"),
        (b"pwmray-checkpoint-99 00\n", "a newer pwmray wrote it, update this one"),
        (b"pwmray-checkpoint-2 00\ncut", "its content is damaged"),
    ],
)
def test_file_that_is_no_agent_is_named(content, message, tmp_path, capsys):
    (tmp_path / "file.pt").write_bytes(content)
    line = refused(capsys, tmp_path / "file.pt")
    assert str(tmp_path / "file.pt") in line
    assert message in line


def test_absent_checkpoint_is_named(tmp_path, capsys):
    assert f"No such file or directory: {tmp_path}/absent" in refused(capsys, tmp_path / "absent")
    assert f"directory: {tmp_path}/checkpoint.pt" in refused(capsys, tmp_path)


def test_config_of_another_version_is_named(tmp_path, capsys):
    config = make_config("baseline")
    about = {"config": {**config.to_dict(), "frobs": 3}, "tasks": [config.task]}
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, about, build_learner(config), {}, {"epochs_reached": 3})
    line = refused(capsys, path)
    assert f"{path} has a config that this pwmray cannot read: unknown config key" in line


# The video.


class Drawn:
    """An environment that can be drawn, small and fast."""

    metadata = {"render_fps": 25}  # noqa: RUF012 (gymnasium's own declaration)

    def reset(self, *, seed):
        return np.full(3, seed, np.float32), {}

    def step(self, action):
        return np.zeros(3, np.float32), float(action[0]), False, False, {}

    def render(self):
        return np.full((64, 64, 3), 200, np.uint8)


def record(path, num_steps):
    with video.recording(path, Drawn()) as recorder:
        recorder.reset(seed=[5])
        for _ in range(num_steps):
            recorder.step(np.zeros((1, 1)))


def test_video_holds_every_step_at_the_pace_of_the_environment(tmp_path):
    record(tmp_path / "out.mp4", EPISODE_STEPS)
    num_frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "out.mp4"))
    assert num_frames == EPISODE_STEPS + 1
    assert seconds == pytest.approx(num_frames / 25, abs=0.05)


def test_video_of_half_an_episode_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"out\.mp4 not written: ffmpeg took 4 pictures"):
        record(tmp_path / "out.mp4", 3)
    assert list(tmp_path.iterdir()) == []


def test_video_of_which_ffmpeg_ends_early_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    program, folder = tmp_path / "ending", tmp_path / "videos"
    program.write_text("#!/bin/sh\nhead -c 100000 > /dev/null\n")
    program.chmod(0o755)
    folder.mkdir()
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    said = r"^.*out\.mp4 not written: .*ending failed \(.+\); \d+ MB are free there$"
    with pytest.raises(ValueError, match=said):
        record(folder / "out.mp4", EPISODE_STEPS)
    assert list(folder.iterdir()) == []


def test_video_for_which_there_is_no_room_is_one_line(tmp_path, monkeypatch):
    folder = tmp_path / "small"
    small_disk.mount(folder, 1 << 20)
    try:
        video.check_ffmpeg(folder / "out.mp4", Drawn())
        small_disk.fill(folder)
        with pytest.raises(ValueError, match=r"^.*out\.mp4 not written: .*; 0 MB are free there$"):
            record(folder / "out.mp4", EPISODE_STEPS)
        assert [path.name for path in folder.iterdir()] == ["filler"]
    finally:
        small_disk.unmount(folder)


def test_ffmpeg_is_tried_before_the_episodes(trial, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    monkeypatch.setattr(video, "open_environment", lambda task: Drawn())
    line = refused(capsys, trial, "--video", tmp_path / "out.mp4")
    assert f"{tmp_path}/out.mp4 not written: /bin/false failed (" in line
    assert list(tmp_path.iterdir()) == []


def test_recorder_is_one_environment_in_lockstep(tmp_path):
    with pytest.raises(ValueError), video.recording(tmp_path / "out.mp4", Drawn()) as recorder:
        obs, _ = recorder.reset(seed=[5])
        step = recorder.step(np.full((1, 1), 0.5))
    assert obs.tolist() == [[5.0, 5.0, 5.0]]
    assert [part.shape for part in step[:4]] == [(1, 3), (1,), (1,), (1,)]
    assert step[1].tolist() == [0.5]


def run_video(trial, path, **environment):
    command = [sys.executable, "-m", "pwmray.cli", "evaluate", trial, "--episodes", "1"]
    run = subprocess.run(
        [*command, "--video", path],
        env={**os.environ, "MUJOCO_GL": "egl", **environment},
        capture_output=True,
        text=True,
    )
    return run.returncode, run.stdout, run.stderr


@pytest.mark.slow
def test_machine_without_a_driver_is_told_what_to_install(trial, tmp_path):
    code, out, err = run_video(trial, tmp_path / "out.mp4", __EGL_VENDOR_LIBRARY_DIRS="/absent")
    assert (code, out) == (2, "")
    assert "no working GL driver" in err
    assert "on Debian: apt install libegl1 libopengl0 libgl1-mesa-dri" in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_video_shows_the_first_episode(trial, tmp_path):
    code, out, err = run_video(trial, tmp_path / "out.mp4")
    if "no working GL driver" in err:
        pytest.skip("this machine cannot draw")
    assert code == 0, err
    assert "out.mp4, the episode of seed 1000000" in out
    frames = imageio_ffmpeg.read_frames(str(tmp_path / "out.mp4"))
    about = next(frames)
    assert (about["size"], about["fps"]) == ((384, 384), 25.0)
    assert np.frombuffer(next(frames), np.uint8).std() > 10
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_record_of_a_trial_is_left_as_it_was(trial, capsys):
    before = (trial / registry.EVENTS_FILE).read_bytes()
    cli.main(["evaluate", str(trial), "--episodes", "1"])
    assert (trial / registry.EVENTS_FILE).read_bytes() == before
    assert registry.running_elsewhere(trial) is None

import os
import re
import shutil
import socket
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from pwmray import room
from pwmray.data.angles import wrap_observations
from pwmray.data.behaviours import BEHAVIOURS, POLICY_NOISES
from pwmray.data.collect import collect
from pwmray.data.collected import collected_path, ensure_data
from pwmray.data.recipe import CollectionRecipe
from pwmray.data.store import (
    BrokenDataError,
    observation_statistics,
    open_store,
    write_store,
)
from pwmray.registry import claim
from pwmray.system import user_name
from pwmray.tasks import find_task
from tests import small_disk
from tests.claims import refuse_claims
from tests.stores import write_rows

SMALL = CollectionRecipe(num_episodes=2)


class CountingEnvs:
    """Stands in for pendulum-spin's environments: obs = (seed, step, action), reward = step."""

    def __init__(self, task: str, num_envs: int):
        self.num_envs = num_envs

    def reset(self, seed):
        self.seeds = np.array(seed, np.float32)
        self.step_index = 0
        return self._observe(np.zeros(self.num_envs)), {}

    def step(self, action):
        self.step_index += 1
        ends = np.full(self.num_envs, self.step_index == 500)
        reward = np.full(self.num_envs, self.step_index, np.float64)
        return self._observe(action[:, 0]), reward, np.zeros_like(ends), ends, {}

    def close(self):
        pass

    def _observe(self, action):
        step = np.full(self.num_envs, self.step_index)
        return np.stack([self.seeds, step, action], axis=1).astype(np.float32)


def command(*arguments):
    return [sys.executable, "-m", "pwmray.cli", *map(str, arguments)]


def die_with_claim(path):
    """Have another process take the claim and end without giving it back."""
    program = "import os, pathlib, sys; from pwmray.registry import claim;"
    program += "held = claim.acquire(pathlib.Path(sys.argv[1])); os._exit(0)"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)


# Collection


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_behaviour_gives_actions_in_range(name):
    actions = BEHAVIOURS[name](np.random.default_rng(0), 500, 3)
    assert actions.shape == (500, 3)
    assert actions.dtype == np.float32
    assert np.abs(actions).max() <= 1
    assert len(np.unique(actions[0])) > 1 or name == "bang-bang"


# Data is found by its recipe: what a behaviour does may change with COLLECTION_FORMAT alone.
OF_FORMAT_1 = {
    "uniform": (0.273923, 0.459311, 0.956531),
    "held-4": (0.273923, -0.918053, -0.831969),
    "held-16": (0.273923, 0.273923, 0.714809),
    "ornstein-uhlenbeck": (0.031433, -0.854146, -0.668867),
    "bang-bang": (1.0, -1.0, -1.0),
    "constant": (0.273923, 0.273923, 0.273923),
    "policy": (0.0, 0.0, 0.0),
    "noisy-policy": (-0.014671, -0.110029, 0.066845),
}


@pytest.mark.parametrize(("name", "steps"), OF_FORMAT_1.items())
def test_behaviour_does_what_it_did_for_the_data_that_there_is(name, steps):
    actions = (BEHAVIOURS | POLICY_NOISES)[name](np.random.default_rng(0), 500, 2)
    assert actions[[0, 7, 99], 0] == pytest.approx(steps, abs=2e-6)


def test_every_behaviour_is_one_whose_actions_are_known():
    assert list(OF_FORMAT_1) == [*BEHAVIOURS, *POLICY_NOISES]


def test_episode_has_the_streams_that_it_had_in_the_data_that_there_is():
    episodes = collect("pendulum-spin", SMALL, CountingEnvs)
    assert episodes.obs[:, 0, 0] == pytest.approx([1_053_049_216, 2_750_207_744])
    assert episodes.action[:, 1, 0] == pytest.approx([-0.237312, 0.309395], abs=2e-6)


def test_held_behaviours_hold_and_bang_bang_is_at_its_limits():
    rng = np.random.default_rng(0)
    assert len(np.unique(BEHAVIOURS["held-4"](rng, 500, 1))) == 125
    assert len(np.unique(BEHAVIOURS["held-16"](rng, 500, 1))) == 32
    assert len(np.unique(BEHAVIOURS["constant"](rng, 500, 1))) == 1
    assert set(np.unique(BEHAVIOURS["bang-bang"](rng, 500, 1))) == {-1.0, 1.0}


def test_behaviours_are_balanced_over_the_episodes():
    episodes = collect("pendulum-spin", CollectionRecipe(num_episodes=12), CountingEnvs)
    assert sorted(episodes.behaviours) == sorted(2 * list(BEHAVIOURS))


def test_rows_hold_the_action_and_reward_that_led_to_them():
    episodes = collect("pendulum-spin", SMALL, CountingEnvs)
    assert episodes.obs.shape == (2, 501, 3)
    np.testing.assert_array_equal(episodes.obs[:, 1:, 2], episodes.action[:, 1:, 0])
    np.testing.assert_array_equal(episodes.obs[:, 1:, 1], episodes.reward[:, 1:])
    assert np.isnan(episodes.action[:, 0]).all()
    assert np.isnan(episodes.reward[:, 0]).all()


def test_episodes_do_not_depend_on_how_many_are_collected():
    few = collect("pendulum-spin", CollectionRecipe(num_episodes=3), CountingEnvs)
    many = collect("pendulum-spin", CollectionRecipe(num_episodes=13), CountingEnvs)
    np.testing.assert_array_equal(few.obs, many.obs[:3])


def test_episodes_differ_in_actions_and_in_starts():
    same = CollectionRecipe(num_episodes=20, behaviours=("uniform",))
    episodes = collect("pendulum-spin", same, CountingEnvs)
    assert len(np.unique(episodes.obs[:, 0, 0])) == 20
    assert len(np.unique(episodes.action[:, 1, 0])) == 20


def test_recipe_fingerprint_is_stable_and_tells_recipes_and_tasks_apart():
    fingerprint = CollectionRecipe().fingerprint("pendulum-spin")
    assert fingerprint == "3f2323aaeacb"
    assert CollectionRecipe().fingerprint("cheetah-run") != fingerprint
    assert CollectionRecipe(seed=1).fingerprint("pendulum-spin") != fingerprint
    assert CollectionRecipe(num_episodes=41).fingerprint("pendulum-spin") != fingerprint
    assert CollectionRecipe(num_rounds=1).fingerprint("pendulum-spin") != fingerprint


def test_numbers_of_rounds_that_are_not_made_do_not_count():
    fingerprint = CollectionRecipe().fingerprint("pendulum-spin")
    assert CollectionRecipe(epochs_per_round=7).fingerprint("pendulum-spin") == fingerprint


def test_policy_acts_in_its_behaviours_and_noise_is_added_to_some():
    behaviours = ("policy", "noisy-policy", "held-4")
    recipe = CollectionRecipe(num_episodes=3, behaviours=behaviours, policy="0" * 64)
    episodes = collect("pendulum-spin", recipe, CountingEnvs, make_policy=always_up)
    alone, noisy, open_loop = episodes.action[:, 1:, 0]
    assert episodes.behaviours == behaviours
    assert set(alone) == {0.75}
    assert np.abs(noisy).max() <= 1
    assert 0 < np.abs(noisy - 0.75).mean() < 0.75
    assert len(np.unique(open_loop)) == 125


def test_policy_acts_on_what_it_sees_before_the_step():
    recipe = CollectionRecipe(num_episodes=2, behaviours=("policy",), policy="0" * 64)
    episodes = collect("pendulum-spin", recipe, CountingEnvs, make_policy=follow_the_step)
    expected = np.arange(500, dtype=np.float32) / 1000
    np.testing.assert_array_equal(episodes.action[:, 1:, 0], [expected, expected])


def follow_the_step(num_envs):
    return lambda obs: np.repeat(obs[:, 1:2] / 1000, 6, axis=1)


def always_up(num_envs):
    return lambda obs: np.full((num_envs, 6), 0.75, np.float32)


def test_data_of_a_policy_that_is_not_at_hand_is_refused_with_its_command(tmp_path):
    behaviours = ("uniform", "policy")  # that one needs no policy does not help
    recipe = CollectionRecipe(num_episodes=2, behaviours=behaviours, policy="0123456789abcdef")
    expected = r"0123456789ab\.\.\. collects.* --behaviours uniform,policy --from CHECKPOINT"
    with pytest.raises(ValueError, match=expected):
        ensure_data("pendulum-spin", recipe, tmp_path, CountingEnvs)
    assert list((tmp_path / "collected").iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_episodes": 0}, "data.num_episodes is 0; it must be at least 1"),
        ({"seed": -1}, "data.seed is -1; it must be at least 0"),
        ({"behaviours": ("unifrom",)}, "unknown data.behaviours .'unifrom'.; valid: uniform"),
        ({"behaviours": ()}, "valid: uniform"),
        ({"num_rounds": -1}, "data.num_rounds is -1; it must be at least 0"),
        ({"episodes_per_round": 0}, "data.episodes_per_round is 0; it must be at least 1"),
        ({"epochs_per_round": 0}, "data.epochs_per_round is 0; it must be at least 1"),
        ({"behaviours": ("uniform", "policy")}, "has policy, and no checkpoint says whose"),
        ({"policy": "0" * 64}, "its policy acts in none of data.behaviours, uniform, held-4"),
    ],
)
def test_recipe_refuses_what_it_cannot_do(wrong, message):
    with pytest.raises(ValueError, match=message):
        CollectionRecipe(**wrong)


# The file


def test_store_gives_back_what_was_written_without_copying(tmp_path):
    store = write_rows(tmp_path / "rows.arrow", recipe={"seed": 3})
    np.testing.assert_array_equal(store.obs[:, 1], np.arange(12))
    np.testing.assert_array_equal(store.episode_starts, [0, 5])
    np.testing.assert_array_equal(store.returns, [1 + 2 + 3 + 4, 6 + 7 + 8 + 9 + 10 + 11])
    assert (store.task, store.recipe) == ("reacher-easy", {"seed": 3})
    assert store.behaviours == ("held-4", "held-4")
    assert not store.obs.flags.owndata
    assert not store.obs.flags.writeable


def test_file_is_one_unpadded_record_batch_of_float32(tmp_path):
    write_rows(tmp_path / "rows.arrow")
    with pa.memory_map(str(tmp_path / "rows.arrow")) as source:
        reader = pa.ipc.open_file(source)
        assert reader.num_record_batches == 1
        assert reader.schema.field("obs").type == pa.list_(pa.float32(), 6)
        assert reader.schema.field("action").type == pa.list_(pa.float32(), 2)


def test_equal_content_has_an_equal_fingerprint_and_other_content_another(tmp_path):
    first = write_rows(tmp_path / "a.arrow")
    second = write_rows(tmp_path / "b.arrow")
    other = write_rows(tmp_path / "c.arrow", recipe={"seed": 1})
    assert first.fingerprint == second.fingerprint != other.fingerprint
    assert first.fingerprint == "3d13e1df8a93497a"  # also of files that lie there


def test_open_views_survive_a_rebuild_of_their_file(tmp_path):
    store = write_rows(tmp_path / "rows.arrow", lengths=(5, 7))
    before = store.obs.copy()
    write_rows(tmp_path / "rows.arrow", lengths=(3, 2))
    np.testing.assert_array_equal(store.obs, before)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999])
def test_truncated_file_is_named_with_the_command_that_makes_it_again(tmp_path, share):
    path = tmp_path / "collected" / "reacher-easy-0123456789ab.arrow"
    write_rows(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    expected = f"{path} is broken.*pwmray data collect reacher-easy --data {tmp_path} --rebuild"
    with pytest.raises(BrokenDataError, match=expected):
        open_store(path)


def test_every_cut_of_a_file_is_noticed(tmp_path):
    path = tmp_path / "rows.arrow"
    write_rows(path)
    content = path.read_bytes()
    assert {opened(path, content[:size]) for size in range(0, len(content), 2)} == {None}


@pytest.fixture
def every_file_is_large(monkeypatch):
    """Have no file checked byte for byte when it is opened."""
    monkeypatch.setattr("pwmray.data.store.VERIFIED_BYTES", 0)


def test_every_cut_and_every_growth_of_a_large_file_is_noticed(tmp_path, every_file_is_large):
    path = tmp_path / "rows.arrow"
    write_rows(path)
    content = path.read_bytes()
    cuts = [content[:size] for size in range(0, len(content), 2)]
    grown = [content + b"\0" * size for size in (1, 8, 64)]
    assert {opened(path, wrong) for wrong in cuts + grown} == {None}


def test_large_file_is_read_whole_by_verifying_alone(tmp_path, every_file_is_large, monkeypatch):
    monkeypatch.setattr("pwmray.data.store._CHUNK_ROWS", 5)
    path = tmp_path / "rows.arrow"
    store = write_rows(path)
    opened_again = open_store(path)
    opened_again.verify()
    assert opened_again.fingerprint == store.fingerprint

    content = path.read_bytes()
    wrong = flip(content, content.index(store.reward.tobytes()) + 8)
    assert opened(path, wrong) == store.fingerprint
    with pytest.raises(BrokenDataError, match=f"{path} is broken: its content does not match"):
        open_store(path).verify()


def test_every_flipped_byte_of_the_rows_is_noticed(tmp_path):
    path = tmp_path / "rows.arrow"
    store = write_rows(path)
    content = path.read_bytes()
    rows = store.obs.tobytes()
    start = content.index(rows)
    flipped = [flip(content, start + offset) for offset in range(len(rows))]
    assert {opened(path, wrong) for wrong in flipped} == {None}


def test_flipped_byte_anywhere_is_noticed_or_without_effect(tmp_path):
    path = tmp_path / "rows.arrow"
    expected = write_rows(path).fingerprint
    content = path.read_bytes()
    found = {opened(path, flip(content, position)) for position in range(0, len(content), 3)}
    assert found == {None, expected}


def opened(path, content):
    """Return the fingerprint of the file with this content, None if it is refused."""
    path.write_bytes(content)
    try:
        return open_store(path).fingerprint
    except BrokenDataError:
        return None


def flip(content, position):
    return content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :]


@pytest.mark.parametrize(
    ("version", "remedy"), [(0, "make it again with: MAKE"), (2, "a newer pwmray wrote it, update")]
)
def test_file_of_another_version_is_refused_by_name(tmp_path, monkeypatch, version, remedy):
    monkeypatch.setattr("pwmray.data.store.FORMAT", f"pwmray-episodes-{version}")
    path = tmp_path / "rows.arrow"
    write_rows(path)
    monkeypatch.undo()
    message = f"'pwmray-episodes-{version}', not 'pwmray-episodes-1'; {remedy}"
    with pytest.raises(BrokenDataError, match=message) as raised:
        open_store(path, "MAKE")
    assert ("MAKE" in str(raised.value)) == (version == 0)


def test_missing_file_is_said_to_be_missing_and_on_which_machine(tmp_path):
    where = re.escape(f"{tmp_path / 'rows.arrow'} on {socket.gethostname()}")
    with pytest.raises(BrokenDataError, match=f"there is no data file {where}"):
        open_store(tmp_path / "rows.arrow")


def test_values_that_are_not_finite_are_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("pwmray.data.store._CHUNK_ROWS", 2)
    action, reward = np.zeros((4, 2), np.float32), np.zeros(4, np.float32)
    reward[[0, 2]] = np.nan
    obs = np.zeros((4, 6), np.float32)
    with pytest.raises(ValueError, match="row 2 has values not finite"):
        write_store(tmp_path / "a.arrow", "reacher-easy", obs, action, reward, [4], ["x"], {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("chunk_rows", [5, 12, 100])
def test_observation_statistics_are_those_of_the_rows(tmp_path, monkeypatch, chunk_rows):
    monkeypatch.setattr("pwmray.data.store._CHUNK_ROWS", chunk_rows)
    mean, std = observation_statistics(write_rows(tmp_path / "rows.arrow"))
    np.testing.assert_allclose(mean[:3], [7 / 12, 5.5, 0], rtol=1e-6)
    np.testing.assert_allclose(std[:3], [np.sqrt(35) / 12, np.sqrt(143 / 12), 1], rtol=1e-6)


# Made once


def test_data_is_made_once_and_then_reused(tmp_path):
    path = ensure_data("pendulum-spin", SMALL, tmp_path, CountingEnvs)
    written = path.stat().st_mtime_ns
    assert ensure_data("pendulum-spin", SMALL, tmp_path, no_environments) == path
    assert path.stat().st_mtime_ns == written
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_task_that_there_is_not_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="unknown task 'pendulum-spn'; did you mean"):
        ensure_data("pendulum-spn", SMALL, tmp_path, no_environments)
    assert list(tmp_path.iterdir()) == []


def no_environments(task, num_envs):
    raise AssertionError("must not collect")


def test_broken_data_is_named_with_the_exact_command_and_rebuild_replaces_it(tmp_path):
    path = ensure_data("pendulum-spin", SMALL, tmp_path, CountingEnvs)
    path.write_bytes(path.read_bytes()[:-100])
    exact = f"pendulum-spin --episodes 2 --seed 0 --data {tmp_path} --rebuild"
    with pytest.raises(BrokenDataError, match=f"{path} is broken.*pwmray data collect {exact}"):
        ensure_data("pendulum-spin", SMALL, tmp_path, no_environments)
    ensure_data("pendulum-spin", SMALL, tmp_path, CountingEnvs, rebuild=True)
    assert open_store(path).num_episodes == 2


@pytest.mark.parametrize(
    ("task", "recipe", "message"),
    [
        ("cartpole-swingup", SMALL, "it is of cartpole-swingup, not of pendulum-spin"),
        (
            "pendulum-spin",
            CollectionRecipe(num_episodes=2, seed=1),
            "holds the data that pendulum-spin-",
        ),
    ],
)
def test_file_of_another_task_or_recipe_under_the_name_is_refused(tmp_path, task, recipe, message):
    path = collected_path("pendulum-spin", SMALL, tmp_path)
    width = find_task(task).obs_dim
    rows = np.zeros((501, width), np.float32)
    columns = [rows, rows[:, :1].copy(), rows[:, 0].copy()]
    write_store(path, task, *columns, [501], ["uniform"], recipe.collection)
    with pytest.raises(BrokenDataError, match=f"{message}.*; make it again with: .*--rebuild"):
        ensure_data("pendulum-spin", SMALL, tmp_path, no_environments)


def test_file_with_columns_of_another_width_than_its_tasks_is_refused(tmp_path):
    rows = np.zeros((5, 4), np.float32)
    columns = [rows, rows[:, :1].copy(), rows[:, 0].copy()]
    write_store(tmp_path / "a.arrow", "pendulum-spin", *columns, [5], ["uniform"], {})
    with pytest.raises(BrokenDataError, match=r"4 observations .*, pendulum-spin's have 3 and 1"):
        open_store(tmp_path / "a.arrow")


def test_file_whose_rows_and_episodes_do_not_add_up_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pwmray.data.store._check_rows", lambda *_: None)
    path, rows = tmp_path / "a.arrow", np.zeros((5, 3), np.float32)
    columns = [rows, rows[:, :1].copy(), rows[:, 0].copy()]
    write_store(path, "pendulum-spin", *columns, [4], ["uniform"], {})
    with pytest.raises(BrokenDataError, match=f"{path} is broken.* do not add up.*MAKE"):
        open_store(path, "MAKE")


def test_what_a_killed_process_left_of_the_file_is_removed_by_the_next(tmp_path):
    path = collected_path("pendulum-spin", SMALL, tmp_path)
    path.parent.mkdir()
    path.with_name(f".{path.name}.0123abcd.tmp").write_bytes(b"half")
    ensure_data("pendulum-spin", SMALL, tmp_path, CountingEnvs)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_data_that_needs_a_policy_names_the_whole_command(tmp_path):
    recipe = CollectionRecipe(num_episodes=2, behaviours=("policy",), policy="0" * 64)
    folder = tmp_path / "my data"
    command = f"--from CHECKPOINT --data '{folder}'"
    with pytest.raises(ValueError, match=rf"pwmray data collect pendulum-spin .*{command}$"):
        ensure_data("pendulum-spin", recipe, folder, CountingEnvs)


def test_second_process_says_that_it_waits_and_then_goes_on(tmp_path):
    path = collected_path("pendulum-spin", SMALL, tmp_path)
    held = claim.acquire(path.with_suffix(".claim"))
    said = []

    def hear(what, done, total):
        said.append(what)
        held.release()

    ensure_data("pendulum-spin", SMALL, tmp_path, CountingEnvs, hear)
    assert f"waiting for process {os.getpid()} on {socket.gethostname()}" in said[0]
    assert said[-1] == "collecting"


def test_data_that_another_process_made_just_before_is_not_made_again(tmp_path, monkeypatch):
    made = ensure_data("pendulum-spin", SMALL, tmp_path / "other", CountingEnvs)
    path, acquire = collected_path("pendulum-spin", SMALL, tmp_path), claim.acquire

    def acquire_too_late(claim_path):
        path.parent.mkdir()
        shutil.copyfile(made, path)
        return acquire(claim_path)

    monkeypatch.setattr(claim, "acquire", acquire_too_late)
    assert ensure_data("pendulum-spin", SMALL, tmp_path, no_environments) == path
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_claim_of_a_dead_process_does_not_stop_collection(tmp_path):
    path = collected_path("pendulum-spin", SMALL, tmp_path)
    die_with_claim(path.with_suffix(".claim"))
    assert path.with_suffix(".claim").exists()
    assert ensure_data("pendulum-spin", SMALL, tmp_path, CountingEnvs) == path


def test_interrupted_collection_leaves_nothing_behind(tmp_path):
    def interrupt(what, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_data("pendulum-spin", SMALL, tmp_path, CountingEnvs, interrupt)
    assert list((tmp_path / "collected").iterdir()) == []


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=f"cannot write data to {tmp_path}/file/collected: Not a"):
        ensure_data("pendulum-spin", SMALL, tmp_path / "file", CountingEnvs)


def test_folder_that_another_user_closed_is_named_with_whose_it_is(tmp_path, monkeypatch):
    refuse_claims(monkeypatch)
    whose = user_name(os.geteuid())
    monkeypatch.setattr(os, "geteuid", lambda: -1)
    said = (
        f"cannot write data to {tmp_path}/collected: Permission denied: .*; {tmp_path} is {whose}'s"
    )
    with pytest.raises(ValueError, match=said):
        ensure_data("pendulum-spin", SMALL, tmp_path, CountingEnvs)


def test_what_was_collected_is_kept_until_there_is_room_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "_POLL_SECONDS", 0.0)
    folder = tmp_path / "disk"
    small_disk.mount(folder, 1 << 20)
    said = []
    try:
        filler = small_disk.fill(folder, spare=1 << 14)  # enough for a claim

        def hear(what, done, total):
            said.append(what)
            if said.count("waiting for room") == 3:
                filler.unlink()

        path = ensure_data("pendulum-spin", SMALL, folder, CountingEnvs, hear)
        assert said.count("waiting for room") == 3
        assert open_store(path).num_episodes == SMALL.total_episodes
        assert list(folder.glob("*/.*")) == []
    finally:
        small_disk.unmount(folder)


def test_two_processes_that_want_the_same_data_make_it_once(tmp_path):
    arguments = command("data", "collect", "pendulum-spin", "--episodes", 6, "--data", tmp_path)
    runs = [start_process(arguments) for _ in range(2)]
    outputs = [run.communicate(timeout=300) for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert outputs[0][0] == outputs[1][0]
    assert sum("collecting" in re.sub("waiting.*", "", errors) for _, errors in outputs) == 1
    assert len(list((tmp_path / "collected").iterdir())) == 1


def start_process(arguments):
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# Angles.


def test_winding_angles_are_taken_modulo_a_turn():
    obs = np.array([[7.0, 7.0], [-3.5, 0.0], [3.0, 90.0]], np.float32)

    found = wrap_observations(obs, find_task("reacher-easy"))

    turn = 2 * np.pi
    np.testing.assert_allclose(
        found, [[7.0 - turn, 7.0], [turn - 3.5, 0.0], [3.0, 90.0]], rtol=1e-6
    )
    assert obs[0, 0] == 7.0


def test_tasks_without_winding_angles_keep_their_observations():
    obs = np.array([[7.0, 7.0]], np.float32)
    assert wrap_observations(obs, find_task("cartpole-swingup")) is obs

"""A trial without Ray: what it leaves behind, and that resuming is exact."""

import dataclasses
import errno
import gc
import json
import re

import numpy as np
import pytest
import torch

from pwmray import registry, results
from pwmray.algorithm import compiling, evaluate
from pwmray.data.collected import ensure_data
from pwmray.data.store import write_store
from pwmray.envs.vector import make_vector
from pwmray.hold import RunningElsewhereError
from pwmray.models import WORLD_MODELS
from pwmray.models.world_model_mlp import MLPWorldModel
from pwmray.registry import Status
from pwmray.tables import Tables
from pwmray.tasks import EPISODE_STEPS
from pwmray.trial import Trial
from tests.made_trials import (
    CPU,
    ask_for,
    curve_of,
    leave_after_a_row,
    make_config,
    make_environments,
    open_trial,
    run_to_the_end,
)

pytestmark = pytest.mark.usefixtures("short_episodes")


@pytest.mark.parametrize(
    ("variant", "num_steps"),
    [("baseline", 50), ("flowpolicy", 50), ("flowwm", 50), ("fullflow", EPISODE_STEPS)],
)
def test_trial_leaves_its_record_curve_and_evaluations(
    variant, num_steps, tmp_path, data, monkeypatch
):
    monkeypatch.setattr(evaluate, "EPISODE_STEPS", num_steps)
    config = make_config(variant)
    ask_for(config, tmp_path)
    run_to_the_end(open_trial(config, tmp_path, data))

    record = registry.read(tmp_path)
    assert record.status is Status.EVALUATED
    assert record.last("epochs_reached") == 6
    assert curve_of(tmp_path)["epoch"].to_pylist() == [2, 4, 6]
    evaluations = results.read_table(tmp_path / "evaluations.arrow")
    seeds = [*config.evaluation.final_seeds, *config.evaluation.plan_seeds]
    assert evaluations["seed"].to_pylist() == seeds
    assert evaluations["actor"].to_pylist() == ["policy"] * 3 + ["planner"] * 2
    assert evaluations["length"].to_pylist() == [num_steps] * 5
    returns = evaluations["return"].to_numpy()
    assert record.last("return_mean") == pytest.approx(returns[:3].mean())
    assert record.last("plan_return_mean") == pytest.approx(returns[3:].mean())
    assert set(returns[:3]).isdisjoint(returns[3:])


def write_arm(folder, num_turns):
    """Write episodes of reacher's sizes whose shoulder has wound up so many turns more each."""
    rng = np.random.default_rng(0)
    lengths = [20, 24, 30]
    obs = rng.uniform(-3, 3, (sum(lengths), 6)).astype(np.float32)
    obs[:, 0] += np.repeat(np.arange(3), lengths) * num_turns * 2 * np.pi
    action = rng.uniform(-1, 1, (len(obs), 2)).astype(np.float32)
    reward = rng.uniform(0, 2, len(obs)).astype(np.float32)
    folder.mkdir()
    path = folder / "arm.arrow"
    write_store(path, "reacher-easy", obs, action, reward, lengths, ["uniform"] * 3, {})
    return path


def test_trial_learns_from_an_arm_that_wound_up_as_from_one_that_did_not(tmp_path):
    def losses(name, num_turns, wrap_angles):
        settings = {"world_model.wrap_angles": wrap_angles, "world_model.standardize": True}
        settings |= {"evaluation.num_episodes": 1}
        config = make_config("baseline", task="reacher-easy", **settings)
        ask_for(config, tmp_path / name)
        trial = open_trial(config, tmp_path / name, write_arm(tmp_path / f"{name}-data", num_turns))
        trial.advance()
        trial.close()
        return curve_of(tmp_path / name)["consistency_loss"].to_pylist()

    straight = losses("straight", 0, True)
    assert losses("wound", 3, True) == pytest.approx(straight, rel=1e-3)
    assert losses("raw", 3, False) != pytest.approx(straight, rel=1e-2)


def live_bytes():
    """Return the bytes that all tensors of this process hold."""
    gc.collect()
    storages = [t.untyped_storage() for t in gc.get_objects() if type(t) is torch.Tensor]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.parametrize("variant", ["baseline", "fullflow"])
def test_memory_does_not_grow_with_the_epochs(variant, tmp_path, data):
    config = make_config(variant, epochs=60, **{"evaluation.every_epochs": 20})
    ask_for(config, tmp_path)
    trial = open_trial(config, tmp_path, data)
    sizes = []
    while trial.epoch < config.epochs:
        trial.advance()
        sizes.append(live_bytes())
    trial.close()
    assert len(sizes) == 3
    assert sizes[0] == sizes[-1] > 0


@pytest.mark.parametrize("compiled", [True, False], ids=["kernels", "plain"])
def test_trial_is_resumed_exactly_with_kernels_and_without(compiled, tmp_path, data):
    config = make_config(**{"runtime.compile": compiled})
    for name in ("whole", "resumed"):
        ask_for(config, tmp_path / name)
    run_to_the_end(open_trial(config, tmp_path / "whole", data))
    stopped = open_trial(config, tmp_path / "resumed", data)
    stopped.advance()
    stopped.close()
    run_to_the_end(open_trial(config, tmp_path / "resumed", data))
    assert curve_of(tmp_path / "resumed").drop_columns(["trial"]) == curve_of(
        tmp_path / "whole"
    ).drop_columns(["trial"])


def test_record_says_what_a_trial_ran_without_and_why(tmp_path, data, monkeypatch):
    config = make_config("baseline", **{"runtime.compile": True})
    ask_for(config, tmp_path)
    open_trial(config, tmp_path, data).close()
    monkeypatch.setattr(compiling, "reason_against", lambda device: "no C++ compiler")
    open_trial(config, tmp_path, data).close()
    record = registry.read(tmp_path)
    assert record.all("kernels") == ["on", "off: no C++ compiler"]
    assert record.all("cuda_graph") == ["off", "off"]


def test_trial_without_planning_leaves_no_plan_return(tmp_path, data):
    config = make_config(**{"evaluation.plan_episodes": 0})
    ask_for(config, tmp_path)
    run_to_the_end(open_trial(config, tmp_path, data))
    evaluations = results.read_table(tmp_path / "evaluations.arrow")
    assert evaluations["actor"].to_pylist() == ["policy"] * 3
    assert registry.read(tmp_path).last("plan_return_mean") is None


@pytest.mark.parametrize("variant", ["fullflow"])
@pytest.mark.parametrize("num_pieces", [1, 3])
def test_resumed_trial_reports_the_same_curve(variant, num_pieces, tmp_path, data):
    config = make_config(variant)
    ask_for(config, tmp_path / "whole")
    run_to_the_end(open_trial(config, tmp_path / "whole", data))

    ask_for(config, tmp_path / "cut")
    trial = open_trial(config, tmp_path / "cut", data)
    for _ in range(num_pieces):
        trial.advance()
    trial.close()
    run_to_the_end(open_trial(config, tmp_path / "cut", data))

    assert curve_of(tmp_path / "cut").drop_columns(["trial"]) == curve_of(
        tmp_path / "whole"
    ).drop_columns(["trial"])
    whole = results.read_table(tmp_path / "whole" / "evaluations.arrow")
    cut = results.read_table(tmp_path / "cut" / "evaluations.arrow")
    assert cut["return"] == whole["return"]


def test_trial_killed_between_checkpoints_reports_the_same_curve(tmp_path, data):
    config = make_config(**{"runtime.checkpoint_seconds": 1e9})
    ask_for(config, tmp_path / "a")
    run_to_the_end(open_trial(config, tmp_path / "a", data))

    ask_for(config, tmp_path / "b")
    trial = open_trial(config, tmp_path / "b", data)
    trial.advance()
    trial.close()
    run_to_the_end(open_trial(config, tmp_path / "b", data))
    a, b = (curve_of(tmp_path / name).drop_columns(["trial"]) for name in "ab")
    assert a == b


def test_damaged_checkpoint_starts_the_trial_again(tmp_path, data):
    config = leave_after_a_row(tmp_path, data)
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])

    trial = open_trial(config, tmp_path, data)
    assert trial.epoch == 0
    run_to_the_end(trial)
    assert curve_of(tmp_path)["epoch"].to_pylist() == [2, 4, 6]


class DeeperWorldModel(MLPWorldModel):
    def _build_dynamics(self):
        super()._build_dynamics()
        self.more = torch.nn.Linear(2, 2)


class PartlyTrainedWorldModel(MLPWorldModel):
    def trained_parameters(self):
        return super().trained_parameters()[1:]


def write_newer(path):
    path.write_bytes(path.read_bytes().replace(b"checkpoint-2", b"checkpoint-9", 1))


@pytest.mark.parametrize(
    ("kind_now", "change_file", "said"),
    [
        (DeeperWorldModel, lambda path: None, "does not fit the model .*world_model.more.weight"),
        (PartlyTrainedWorldModel, lambda path: None, "does not fit the model .* match the size"),
        (MLPWorldModel, write_newer, "a newer pwmray wrote it, update this one"),
    ],
)
def test_checkpoint_of_other_code_fails_the_trial_and_is_kept(
    kind_now, change_file, said, tmp_path, data, monkeypatch
):
    config = leave_after_a_row(tmp_path, data, "baseline")
    path = tmp_path / "checkpoint.pt"
    change_file(path)
    before = path.read_bytes()
    monkeypatch.setitem(WORLD_MODELS, "mlp", kind_now)

    with pytest.raises(ValueError, match=f"^{path} .*{said}.*; delete it to begin again$"):
        open_trial(config, tmp_path, data)
    assert path.read_bytes() == before
    assert curve_of(tmp_path)["epoch"].to_pylist() == [2]
    record = registry.read(tmp_path)
    assert (record.status, record.last("failure")) == (Status.FAILED, "config")


def test_curve_of_a_newer_version_fails_the_trial_and_is_kept(tmp_path, data):
    config = leave_after_a_row(tmp_path, data)
    path = tmp_path / "curve.arrow"
    newer = path.read_bytes().replace(b"pwmray-results-1", b"pwmray-results-9")
    path.write_bytes(newer)
    said = f"^{path} .* a newer pwmray wrote it, update this one; delete it to begin again$"
    with pytest.raises(ValueError, match=said):
        open_trial(config, tmp_path, data)
    assert path.read_bytes() == newer
    assert (tmp_path / "checkpoint.pt").exists()
    record = registry.read(tmp_path)
    assert (record.status, record.last("failure")) == (Status.FAILED, "config")


def test_curve_older_than_its_checkpoint_starts_the_trial_again(tmp_path, data, caplog):
    config = make_config()
    ask_for(config, tmp_path)
    trial = open_trial(config, tmp_path, data)
    trial.advance()
    curve = (tmp_path / "curve.arrow").read_bytes()
    trial.advance()
    trial.close()
    (tmp_path / "curve.arrow").write_bytes(curve)  # as a copy taken while it ran may have it

    trial = open_trial(config, tmp_path, data)
    assert trial.epoch == 0
    assert "its curve ends at epoch 2, its checkpoint is of 4" in caplog.text
    run_to_the_end(trial)
    assert curve_of(tmp_path)["epoch"].to_pylist() == [2, 4, 6]


def test_checkpoint_that_cannot_be_read_now_is_kept(tmp_path, data, monkeypatch):
    config = leave_after_a_row(tmp_path, data)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def fail(*_):
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as broken:
        broken.setattr("pwmray.checkpoint_file.read_with_digest", fail)
        with pytest.raises(OSError, match="Stale file handle"):
            open_trial(config, tmp_path, data)
    assert registry.read(tmp_path).last("failure") == "node lost"
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    registry.record(tmp_path, Status.QUEUED)
    trial = open_trial(config, tmp_path, data)
    assert trial.epoch == 2
    trial.close()


def test_trial_whose_last_checkpoint_cannot_be_saved_is_given_back(tmp_path, data, monkeypatch):
    config = make_config(**{"runtime.checkpoint_seconds": 3600.0, "evaluation.every_epochs": 1})
    ask_for(config, tmp_path)
    trial = open_trial(config, tmp_path, data)
    while trial.epoch == trial._saved_epoch:  # what is best so far is saved at once
        trial.advance()

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr("pwmray.algorithm.checkpoint.save", fail)
        with pytest.raises(OSError, match="Input/output error"):
            trial.close()
    assert not (tmp_path / "claim.json").exists()
    assert not (tmp_path / ".stacks.tmp").exists()
    run_to_the_end(open_trial(config, tmp_path, data))


def test_reason_of_a_failure_is_kept_short(tmp_path, data):
    config = make_config()
    ask_for(config, tmp_path)
    trial = open_trial(config, tmp_path, data)
    trial._run_epoch = lambda _: exec("raise RuntimeError('x' * 1_000_000)")
    with pytest.raises(RuntimeError):
        trial.advance()
    trial.close()
    assert registry.read(tmp_path).last("reason").startswith("RuntimeError: xxx")
    assert (tmp_path / "events.jsonl").stat().st_size < 50_000


def test_data_of_another_task_data_changed_begins_again_and_says_so(tmp_path, data, caplog):
    config = make_config()
    other = dataclasses.replace(config.data, seed=1)
    other = ensure_data(config.task, other, tmp_path / "data", make_vector)
    first, resumed = tmp_path / "first", tmp_path / "resumed"
    ask_for(config, first)
    run_to_the_end(open_trial(config, first, other))
    ask_for(config, resumed)
    trial = open_trial(config, resumed, data)
    trial.advance()
    trial.close()

    trial = open_trial(config, resumed, other)
    assert trial.epoch == 0
    assert not list(resumed.glob("*.pt"))
    trial.close()  # killed before a checkpoint of its own: what was there is not taken up
    run_to_the_end(open_trial(config, resumed, other))
    a, b = (curve_of(folder).drop_columns(["trial"]) for folder in (first, resumed))
    assert a == b
    changed = "its data changed from .{16} to .{16}"
    assert re.search(f"starts again at epoch 0: {changed}", caplog.text)
    (said,) = registry.read(resumed).all("began_again")
    assert re.fullmatch(changed, said)


def test_data_of_another_task_fails_the_trial(tmp_path, data):
    config = make_config(task="pendulum-swingup")
    ask_for(config, tmp_path)
    with pytest.raises(ValueError, match="it is of pendulum-spin, not of pendulum-swingup"):
        open_trial(config, tmp_path, data)


def test_other_seed_gives_another_curve(tmp_path, data):
    for seed in (42, 43):
        config = make_config(seed=seed)
        ask_for(config, tmp_path / str(seed))
        run_to_the_end(open_trial(config, tmp_path / str(seed), data))
    one, two = (curve_of(tmp_path / name)["critic_loss"] for name in ("42", "43"))
    assert one != two


def test_second_process_does_not_get_a_running_trial(tmp_path, data):
    config = make_config()
    ask_for(config, tmp_path)
    trial = open_trial(config, tmp_path, data)
    with pytest.raises(RunningElsewhereError):
        open_trial(config, tmp_path, data)
    trial.close()


def test_trial_that_was_taken_over_writes_nothing_more(tmp_path, data):
    config = make_config()
    ask_for(config, tmp_path)
    trial = open_trial(config, tmp_path, data)
    (tmp_path / registry.CLAIM_FILE).write_text('{"token": "another", "host": "h", "pid": 1}')
    before = (tmp_path / "events.jsonl").read_bytes()
    with pytest.raises(RunningElsewhereError):
        trial.advance()
    trial.close()
    assert (tmp_path / "events.jsonl").read_bytes() == before
    assert not (tmp_path / "curve.arrow").exists()


def test_diverging_trial_fails_with_its_reason(tmp_path, data):
    config = make_config(**{"learner.model_lr": 1e30, "learner.model_clip": 1e30})
    ask_for(config, tmp_path)
    trial = open_trial(config, tmp_path, data)
    with pytest.raises(FloatingPointError):
        trial.advance()
    trial.close()
    record = registry.read(tmp_path)
    assert record.status is Status.FAILED
    assert "diverged" in record.last("reason")


class SpoiltRewards:
    """Environments whose rewards become `value` from the given reset on."""

    def __init__(self, environments, value, from_reset):
        self._environments, self._value, self._resets_left = environments, value, from_reset
        self.num_envs = environments.num_envs

    def reset(self, *, seed):
        self._resets_left -= 1
        return self._environments.reset(seed=seed)

    def step(self, actions):
        obs, rewards, *ends = self._environments.step(actions)
        return obs, rewards * (1.0 if self._resets_left > 0 else self._value), *ends


def fail_at(piece, folder, data, make=make_environments, spoil=lambda trial: None, **settings):
    """Run a trial to its `piece`-th piece, spoil it there; return its record and checkpoint."""
    config = make_config("baseline", **settings)
    ask_for(config, folder)
    trial = Trial(config, folder, data, make, CPU)
    for _ in range(piece - 1):
        trial.advance()
    before = (folder / "checkpoint.pt").read_bytes()
    spoil(trial)
    with pytest.raises(FloatingPointError):
        trial.advance()
    trial.close()
    assert (folder / "checkpoint.pt").read_bytes() == before
    record = registry.read(folder)
    assert record.status is Status.FAILED
    return record


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_return_that_is_not_finite_fails_the_trial(value, tmp_path, data):
    spoilt = SpoiltRewards(make_environments("pendulum-spin", 2), value, from_reset=2)
    record = fail_at(2, tmp_path, data, make=lambda *_: spoilt)
    assert record.last("reason").startswith("FloatingPointError: diverged: return_mean is ")
    assert record.last("reason").endswith(" at epoch 4")
    assert curve_of(tmp_path)["epoch"].to_pylist() == [2]


def test_final_return_that_is_not_finite_fails_the_trial(tmp_path, data):
    def make(task, num_episodes):
        spoilt = float("nan") if num_episodes == 3 else 1.0  # the final evaluation's
        return SpoiltRewards(make_environments(task, num_episodes), spoilt, from_reset=0)

    record = fail_at(2, tmp_path, data, make=make, epochs=2)
    assert "return_mean is nan at epoch 2" in record.last("reason")
    assert not (tmp_path / "evaluations.arrow").exists()


def test_plan_return_that_is_not_finite_fails_the_trial(tmp_path, data):
    spoilt = SpoiltRewards(make_environments("pendulum-spin", 2), float("nan"), from_reset=2)
    made = {2: spoilt, 3: make_environments("pendulum-spin", 3)}
    record = fail_at(2, tmp_path, data, make=lambda _, num: made[num], epochs=2)
    assert "plan_return_mean is nan at epoch 2" in record.last("reason")
    assert not (tmp_path / "evaluations.arrow").exists()


def test_imagined_value_that_is_not_finite_fails_the_trial(tmp_path, data):
    def spoil(trial):
        trial.learner.predict_return = lambda obs: torch.full((len(obs), 1), float("inf"))

    record = fail_at(3, tmp_path, data, spoil=spoil)
    assert "imagined_start_value is inf at epoch 6" in record.last("reason")
    assert curve_of(tmp_path)["epoch"].to_pylist() == [2, 4]


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_parameter_spoilt_by_the_last_step_is_not_saved(value, tmp_path, data):
    def spoil(trial):
        run_epoch = trial.learner.run_epoch

        def spoiling(*arguments):
            metrics = run_epoch(*arguments)
            if trial.epoch == 5:
                trial.learner.policy.log_std.data[-1] = value  # of an action that the task lacks
            return metrics

        trial.learner.run_epoch = spoiling

    record = fail_at(3, tmp_path, data, spoil=spoil)
    assert "policy.log_std is not finite at epoch 6" in record.last("reason")
    assert record.last("epochs_reached") == 6


def test_data_that_cannot_be_read_fails_the_trial(tmp_path):
    config = make_config()
    ask_for(config, tmp_path)
    broken = tmp_path / "broken.arrow"
    broken.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"broken\.arrow"):
        open_trial(config, tmp_path, broken)
    assert registry.read(tmp_path).status is Status.FAILED
    assert registry.running_elsewhere(tmp_path) is None


# The sweep's tables.


def write_sweep(folder, *trials):
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps({"trials": trials}))
    return Tables(folder)


def evaluate_by_hand(results_folder, rows, **settings):
    """Leave the record of an evaluated trial; return its fingerprint and its folder."""
    config = make_config(**settings)
    folder = registry.trial_folder(results_folder, config.fingerprint)
    ask_for(config, folder)
    for status in (Status.RUNNING, Status.COMPLETED, Status.EVALUATED):
        registry.record(folder, status)
    results.write_rows(folder / "evaluations.arrow", rows, results.EVALUATIONS)
    return config.fingerprint, folder


def episode_row(actor, value):
    return {"trial": "t", "actor": actor, "episode": 0, "seed": 1, "return": value, "length": 500}


def test_unreadable_trials_are_left_out_of_the_tables_and_named_once(tmp_path):
    rows = [episode_row("policy", 1.0)]
    (good, _), (bare, bare_folder), (later, later_folder) = (
        evaluate_by_hand(tmp_path, rows, seed=seed) for seed in (1, 2, 3)
    )
    (bare_folder / "evaluations.arrow").unlink()
    events = later_folder / "events.jsonl"
    events.write_text(events.read_text().replace('"horizon"', '"a_later_key"'))
    tables = write_sweep(tmp_path / "sweep", good, bare, later)
    tables.write()
    table = results.read_table(tmp_path / "sweep" / "trials.arrow")
    assert table["trial"].to_pylist() == [good]
    without_evaluation, of_another_version = tables.newly_left_out()
    assert without_evaluation == (
        f"left out of the tables: {bare_folder}: EVALUATED without evaluations.arrow; delete the "
        "folder to run the trial again"
    )
    assert f"left out of the tables: {later_folder}: unknown config key" in of_another_version
    assert "valid:" not in of_another_version
    tables.write()
    assert tables.newly_left_out() == []


def test_trial_whose_curve_was_deleted_is_named_once_and_keeps_its_return(tmp_path):
    fingerprint, folder = evaluate_by_hand(tmp_path, [episode_row("policy", 1.0)])
    events = folder / "events.jsonl"
    events.write_text(events.read_text().replace('"COMPLETED"', '"COMPLETED", "train_seconds": 2'))
    tables = write_sweep(tmp_path / "sweep", fingerprint)
    tables.write()
    assert tables.newly_left_out() == [
        f"left out of the curves: {folder}: EVALUATED without curve.arrow; delete the folder to "
        "run the trial again"
    ]
    tables.write()
    assert tables.newly_left_out() == []
    (row,) = tables.join()["trials"].to_pylist()
    assert (row["return_mean"], row["return_sd"]) == (1.0, None)  # of one episode


def test_who_reads_while_the_tables_are_written_finds_the_episodes_of_every_trial(
    tmp_path, monkeypatch
):
    fingerprint, _ = evaluate_by_hand(tmp_path, [episode_row("policy", 1.0)])
    tables, seen = write_sweep(tmp_path / "sweep", fingerprint), []
    write_table = results.write_table

    def write_and_look(path, table):
        write_table(path, table)
        found = results.load(tmp_path / "sweep")
        seen.append(found.trials.num_rows <= found.evaluations.num_rows)

    monkeypatch.setattr(results, "write_table", write_and_look)
    tables.write()
    assert seen == [True] * 3


def test_trial_that_runs_again_has_not_ended(tmp_path):
    config = make_config()
    folder = registry.trial_folder(tmp_path, config.fingerprint)
    ask_for(config, folder)
    tables = write_sweep(tmp_path / "sweep", config.fingerprint)
    ended = []
    for status in (Status.RUNNING, Status.CANCELLED, Status.QUEUED, Status.RUNNING):
        registry.record(folder, status)
        ended.append(tables.join()["trials"]["ended_at"].to_pylist()[0] is not None)
    assert ended == [False, True, False, False]


def test_table_of_trials_keeps_the_planner_out_of_the_return(tmp_path):
    rows = [episode_row("policy", 1.0), episode_row("policy", 3.0), episode_row("planner", 9.0)]
    fingerprint, _ = evaluate_by_hand(tmp_path, rows)
    write_sweep(tmp_path / "sweep", fingerprint).write()
    row = results.read_table(tmp_path / "sweep" / "trials.arrow").to_pylist()[0]
    assert (row["return_mean"], row["plan_return_mean"]) == (2.0, 9.0)
    assert row["evaluation_episodes"] == 2


def test_table_takes_up_a_trial_of_an_earlier_version(tmp_path):
    fingerprint, folder = evaluate_by_hand(tmp_path, [episode_row("policy", 1.0)])
    path = folder / "evaluations.arrow"
    results.write_table(path, results.read_table(path).drop_columns(["actor"]))
    write_sweep(tmp_path / "sweep", fingerprint).write()
    row = results.read_table(tmp_path / "sweep" / "trials.arrow").to_pylist()[0]
    assert (row["return_mean"], row["plan_return_mean"]) == (1.0, None)
    evaluations = results.read_table(tmp_path / "sweep" / "evaluations.arrow")
    assert evaluations.schema.remove_metadata() == results.EVALUATIONS


def test_curves_of_two_versions_are_joined(tmp_path):
    rows = [episode_row("policy", 1.0)]
    old, folder = evaluate_by_hand(tmp_path, rows)
    new, newer_folder = evaluate_by_hand(tmp_path, rows, seed=9)
    row = {"trial": "t", "epoch": 1, "seconds": 1.0, "return_mean": 1.0, "real_start_value": 2.0}
    results.write_rows(newer_folder / "curve.arrow", [row], results.CURVE)
    earlier = results.read_table(newer_folder / "curve.arrow").drop_columns(["real_start_value"])
    results.write_table(folder / "curve.arrow", earlier)
    write_sweep(tmp_path / "sweep", old, new).write()
    curves = results.read_table(tmp_path / "sweep" / "curves.arrow")
    assert curves.schema.remove_metadata() == results.CURVE
    assert curves["real_start_value"].to_pylist() == [None, 2.0]

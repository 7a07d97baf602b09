"""What a plan says that trials cost, and how it knows."""

import dataclasses
import errno
import json

import pytest

from pwmray import plan, plan_text, prices, registry, results, tables
from pwmray.algorithm import checkpoint
from pwmray.build import build_learner, build_shapes, num_parameters
from pwmray.config import TrialConfig
from pwmray.flops import count_pretraining_flops, count_update_flops
from pwmray.pretraining import prices as pretraining_prices
from pwmray.pretraining.config import PretrainingConfig
from pwmray.registry import Record, Status
from pwmray.room import size_text
from search_spaces import SCALES as REAL_SCALES
from tests.model_inputs import stream, windows
from tests.planned_sweeps import PHASE6, cell, run, stand_at
from tests.tiny import SCALES, SETTINGS, sweep

PAPER = REAL_SCALES["paper"]


def make_config(**settings):
    flat = {"task": "cheetah-run", "seed": 1, "epochs": 15_000, "size": 48, **settings}
    return TrialConfig.from_flat({**PAPER["set"], **flat})


def make_plan(results, **changes):
    priced = dataclasses.replace(sweep, **changes)
    return plan.make(priced, "tiny", priced.trials("tiny"), results)


@pytest.fixture(autouse=True)
def gpus(tmp_path_factory, monkeypatch):
    """Give the folder of this machine's GPUs, of which it has none."""
    folder = tmp_path_factory.mktemp("gpus")
    monkeypatch.setattr(prices, "_GPUS", folder)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return folder


def test_finished_trials_price_the_others_of_their_kind(tmp_path):
    scales = {"tiny": {**SCALES["tiny"], "minutes_per_1000_epochs": {"fullflow": 500.0}}}
    priced, trials = dataclasses.replace(sweep, scales=scales), sweep.trials("tiny")
    # The baseline of 4 epochs took 2 minutes: half a minute an epoch.
    known = {"train_seconds": 90.0, "evaluation_seconds": 30.0, "device": "cpu"}
    stand_at(tmp_path, trials[0], Status.EVALUATED, **known)

    made = plan.make(priced, "tiny", trials, tmp_path)

    minutes = {cell(t.config)[:2]: t.minutes for t in made.trials}
    assert minutes == pytest.approx(
        {
            ("baseline", 4): 2.0,
            ("baseline", 6): 3.0,
            ("fullflow", 4): 2.0,  # the scale's guess: 500 minutes for 1,000 epochs
            ("fullflow", 6): 3.0,
        }
    )
    assert made.minutes == pytest.approx(2 * (2.0 + 2.0 + 3.0 + 3.0) - 2.0)


@pytest.mark.parametrize(
    ("settings", "others"),
    [
        ({"finetune_wm": False, "world_model_from": "a.ckpt"}, {"finetune_wm": True}),
        ({"fidelity": "published"}, {"fidelity": "corrected"}),
        ({"evaluation.every_epochs": 1}, {"evaluation.every_epochs": 2}),
        ({"evaluation.plan_episodes": 0}, {"evaluation.plan_episodes": 1}),
        ({"planner.num_iterations": 1}, {"planner.num_iterations": 6}),
        ({"learner.wm_iterations": 1}, {"learner.wm_iterations": 8}),
    ],
)
def test_what_changes_the_time_of_a_trial_has_a_price_of_its_own(settings, others):
    plain = {**SCALES["tiny"]["set"], "task": "pendulum-spin", "seed": 1, "epochs": 4}
    priced = TrialConfig.from_flat({**plain, **settings})
    other = TrialConfig.from_flat({**plain, **settings, **others})
    assert prices.cost_key(priced.to_dict()) != prices.cost_key(other.to_dict())
    same = dataclasses.replace(priced, seed=2, epochs=8, task="cheetah-run")
    assert prices.cost_key(same.to_dict()) == prices.cost_key(priced.to_dict())


def test_plan_without_a_finished_trial_or_a_guess_takes_ten_minutes_for_1000_epochs(tmp_path):
    made = plan.make(sweep, "tiny", sweep.trials("tiny"), tmp_path)
    assert made.trials[0].minutes == pytest.approx(0.04)


def test_finished_trials_of_another_sweep_in_the_folder_price_these_too(tmp_path):
    first = dataclasses.replace(sweep, name="first")
    made = plan.make(first, "tiny", first.trials("tiny")[:1], tmp_path)
    folder = tables.open_sweep(made, "python first.py")
    known = {"train_seconds": 90.0, "evaluation_seconds": 30.0, "device": "cpu"}
    trial = registry.trial_folder(tmp_path, made.trials[0].config.fingerprint)
    registry.record(trial, Status.PENDING, config=made.trials[0].config.to_dict())
    for status in (Status.QUEUED, Status.RUNNING, Status.COMPLETED):
        registry.record(trial, status, **known)
    write_evaluations(trial)
    registry.record(trial, Status.EVALUATED, **known)
    tables.Tables(folder).write()

    other = dataclasses.replace(sweep, name="other", vary={**sweep.vary, "seed": [7]})
    found = plan.make(other, "tiny", other.trials("tiny"), tmp_path).trials

    sources = {cell(t.config)[:2]: (t.price.source, t.minutes) for t in found}
    assert sources["baseline", 6] == (prices.MEASURED, pytest.approx(3.0))
    assert sources["fullflow", 6][0] == prices.OPERATIONS


def test_final_evaluation_does_not_make_longer_trials_as_many_times_dearer(tmp_path):
    trials = sweep.trials("tiny")
    known = {"train_seconds": 60.0, "device": "cpu"}
    folder = stand_at(tmp_path, trials[0], Status.RUNNING)
    registry.record(folder, Status.COMPLETED, **known, evaluation_seconds=60.0)
    registry.record(folder, Status.EVALUATED, **known, evaluation_seconds=180.0)

    found = {cell(t.config)[:2]: t for t in make_plan(tmp_path).trials}

    # Of 4 minutes for 4 epochs the final evaluation took 2.
    assert found["baseline", 4].minutes == pytest.approx(4.0)
    assert found["baseline", 6].minutes == pytest.approx(2.0 + 6 * 0.5)


@pytest.mark.parametrize(
    ("share", "times"), [(0.5, 1.0), (0.25, 2.0), (1.0, 1.0)], ids=["same", "smaller", "larger"]
)
def test_trials_with_a_smaller_share_of_a_gpu_are_not_taken_to_be_as_fast(share, times):
    config = make_config(variant="baseline", **{"runtime.gpu_fraction": share})
    measured = {prices.cost_key(config.to_dict()): [prices.Rate(H100, 0.5, 2.0, 3.0)]}
    (found,) = prices.price([config], measured, PAPER)
    assert found[::2] == (2.0 * times, 3.0 * times)


def test_trials_of_the_same_share_of_a_gpu_price_those_of_it():
    config = make_config(variant="baseline", **{"runtime.gpu_fraction": 0.25})
    rates = [prices.Rate(H100, 1.0, 2.0), prices.Rate(H100, 0.25, 5.0)]
    measured = {prices.cost_key(config.to_dict()): rates}
    assert prices.price([config], measured, PAPER)[0].minutes_per_epoch == 5.0


def test_record_tells_with_which_share_of_a_gpu_its_trial_took_its_time(tmp_path):
    config = make_config(variant="baseline", **{"runtime.gpu_fraction": 0.25})
    known = {"train_seconds": 600.0, "evaluation_seconds": 300.0, "device": "NVIDIA H100"}
    record = Record([{"status": "EVALUATED", "config": config.to_dict(), **known}])
    (rates,) = prices.measure(tmp_path, [(config, record)]).values()
    assert rates == [prices.Rate("NVIDIA H100", 0.25, pytest.approx(15 / config.epochs))]


def test_gpu_hours_of_a_plan_are_no_fewer_where_trials_share_a_gpu(tmp_path, capsys):
    options = ["--plan", "--format", "json", "--results", tmp_path, "--scale", "paper"]
    alone = json.loads(run(capsys, *options, of=PHASE6)[1])["device_hours"]
    shared = json.loads(run(capsys, *options, "--trials-per-gpu", "4", of=PHASE6)[1])
    assert shared["device_hours"] == pytest.approx(alone)


A100, H100 = "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3"
ON_CPU = prices.Rate("cpu", 1, 9.0)
ON_BOTH = [ON_CPU, prices.Rate(A100, 1.0, 3.0), prices.Rate(H100, 1.0, 2.0)]


@pytest.mark.parametrize(
    ("gpu_type", "rates", "expected"),
    [
        ("H100", ON_BOTH, (2.0, "finished trials")),
        ("A100", ON_BOTH, (3.0, "finished trials")),
        ("A10", ON_BOTH, (3.0, f"finished trials on {A100}")),  # another GPU
        ("", ON_BOTH, (3.0, f"finished trials on {A100}")),  # the slower of those there are
        ("H200", [ON_CPU, ON_BOTH[-1]], (2.0, f"finished trials on {H100}")),
        ("H100", [ON_CPU], (0.01, prices.UNKNOWN)),
    ],
)
def test_finished_trials_price_those_on_the_gpu_that_they_ran_on(gpu_type, rates, expected):
    config = make_config(variant="baseline", size=5, **{"runtime.gpu_type": gpu_type})
    measured = {prices.cost_key(config.to_dict()): rates}
    assert prices.price([config], measured, PAPER) == [prices.Price(*expected)]


@pytest.mark.parametrize(
    ("visible", "minutes"), [(None, 2.0), ("0", 2.0), ("", 9.0)], ids=["gpu", "chosen", "hidden"]
)
def test_trials_without_a_type_are_priced_on_this_machines_device(
    visible, minutes, gpus, monkeypatch
):
    (gpus / "0000:07:00.0").mkdir()
    (gpus / "0000:07:00.0" / "information").write_text(f"Model: \t\t {H100}\nIRQ: \t 5\n")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    config = make_config(variant="baseline")
    measured = {prices.cost_key(config.to_dict()): ON_BOTH}
    (found,) = prices.price([config], measured, SCALES["tiny"])
    assert found == prices.Price(minutes, prices.MEASURED)


def test_trials_on_a_cpu_are_not_priced_by_those_on_a_gpu():
    config = make_config(variant="baseline", **{"runtime.gpu_type": "H100"})
    measured = {prices.cost_key(config.to_dict()): ON_BOTH[2:]}
    assert prices.price([config], measured, SCALES["tiny"])[0].source == prices.UNKNOWN


def write_evaluations(folder):
    from pwmray import results

    row = {"trial": folder.name, "actor": "policy", "episode": 0, "seed": 1, "length": 500}
    results.write_rows(folder / "evaluations.arrow", [{**row, "return": 1.0}], results.EVALUATIONS)


def test_broken_table_of_another_sweep_stops_no_plan(tmp_path, caplog):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "trials.arrow").write_text("broken")
    assert make_plan(tmp_path).counts() == {"new": 8}
    assert "other/trials.arrow is not a complete Arrow file" in caplog.text


EULER_MODEL, FOUR_SUBSTEPS = {"world_model.integrator": "euler"}, {"policy.num_substeps": 4}


@pytest.mark.parametrize(
    ("settings", "minutes"),
    [
        ({"variant": "baseline", "runtime.gpu_type": "H100"}, 49.2),  # the mean of nine runs
        ({"variant": "baseline", "runtime.gpu_type": "H200"}, 46.6),
        ({"variant": "fullflow"}, 188.8),  # phase 6's, slower than phase 4's
        ({"variant": "fullflow", "world_model.num_substeps": 8}, 176.3),
        ({"variant": "baseline", "world_model_from": "pretrained", "finetune_wm": False}, 15.0),
        ({"variant": "flowpolicy", "world_model_from": "pretrained"}, 51.4),
        ({"variant": "fullflow", "policy.num_substeps": 4}, 128.3),
        ({"variant": "fullflow", "policy.integrator": "euler", **EULER_MODEL}, 79.3),
        ({"variant": "baseline", "world_model_from": "pretrained"}, 43.8),
        ({"variant": "flowpolicy", "world_model_from": "pretrained", "finetune_wm": False}, 15.0),
        ({"variant": "flowpolicy", "world_model_from": "pretrained", **FOUR_SUBSTEPS}, 62.6),
    ],
)
def test_earlier_runs_price_trials_of_their_settings(settings, minutes):
    config = make_config(**settings)
    (found,) = prices.price([config], {}, PAPER)
    assert found.source == prices.EARLIER
    assert found.minutes_per_epoch * config.epochs == pytest.approx(minutes, abs=0.05)


def test_trial_is_priced_by_its_operations_beside_the_trial_that_is_most_like_it():
    unlike, like, asked = (make_config(variant=v) for v in ("flowwm", "fullflow", "flowpolicy"))
    keys = [prices.cost_key(config.to_dict()) for config in (unlike, like)]
    measured = {key: [prices.Rate("cpu", 1, rate)] for key, rate in zip(keys, (7, 1), strict=True)}
    *_, found = prices.price([unlike, like, asked], measured, {})
    ratio = count_update_flops(asked).total / count_update_flops(like).total
    assert found == prices.Price(pytest.approx(ratio), prices.OPERATIONS)


def test_settings_without_a_price_are_priced_by_their_operations():
    frozen = {"world_model_from": "pretrained", "finetune_wm": False}
    known = make_config(variant="flowpolicy", **frozen)
    tuned = make_config(variant="flowpolicy", world_model_from="pretrained")
    unknown = make_config(variant="fullflow", **frozen)
    base, _, found = prices.price([known, tuned, unknown], {}, PAPER)
    ratio = count_update_flops(unknown).total / count_update_flops(known).total
    assert ratio > 2
    assert found[:2] == (pytest.approx(base.minutes_per_epoch * ratio), prices.OPERATIONS)


GUESS = {**REAL_SCALES["laptop"], "minutes_per_1000_epochs": {"fullflow": 3.0}}
USUAL = {**GUESS["set"], "variant": "fullflow", "task": "cheetah-run", "seed": 1, "epochs": 250}


@pytest.mark.parametrize(
    ("settings", "least", "most"),
    [
        ({"world_model.num_substeps": 8}, 2.0, 4.0),
        ({"world_model_from": "pretrained", "finetune_wm": False}, 0.2, 0.6),
        ({"learner.wm_iterations": 1}, 0.2, 0.6),
    ],
)
def test_scales_guess_prices_other_settings_than_its_own_by_their_operations(settings, least, most):
    usual, other = TrialConfig.from_flat(USUAL), TrialConfig.from_flat({**USUAL, **settings})
    known, found = prices.price([usual, other], {}, GUESS)
    assert known == prices.Price(0.003, prices.GUESSED)
    assert found.source == prices.GUESSED_BY_OPERATIONS
    assert least < found.minutes_per_epoch / 0.003 < most


def test_guesses_keep_the_pace_of_the_trials_that_are_finished():
    scale = {**GUESS, "minutes_per_1000_epochs": {"baseline": 2.0, "fullflow": 3.0}}
    done = TrialConfig.from_flat({**USUAL, "variant": "baseline"})
    measured = {prices.cost_key(done.to_dict()): [prices.Rate("cpu", 1, 0.008)]}  # 4 times it
    known, found = prices.price([done, TrialConfig.from_flat(USUAL)], measured, scale)
    assert known == prices.Price(0.008, prices.MEASURED)
    assert found[:2] == (pytest.approx(0.012), f"{prices.GUESSED} {prices.AT_PACE}")


def test_scale_that_is_no_trial_without_what_the_sweep_holds_has_its_guess_as_it_stands():
    unplanned = {"evaluation.plan_episodes": 0}
    scale = {**GUESS, "set": {"evaluation.final_episodes": 2}}  # fewer than are planned by default
    held = TrialConfig.from_flat({**USUAL, **scale["set"], **unplanned})
    assert prices.price([held], {}, scale) == [prices.Price(0.003, prices.GUESSED)]


def test_model_of_another_size_is_not_priced_by_earlier_runs():
    (found,) = prices.price([make_config(variant="baseline", size=5)], {}, PAPER)
    assert found.source == prices.UNKNOWN


@pytest.mark.parametrize(
    ("trials", "num_devices", "minutes"),
    [
        ([(3, 1.0), (2, 1.0), (2, 1.0)], 1, 7.0),
        ([(3, 1.0), (2, 1.0), (2, 1.0)], 2, 4.0),  # 3 beside 2 and then 2
        ([(3, 1.0), (2, 1.0), (2, 1.0)], 9, 3.0),
        ([(3, 0.5), (2, 0.5), (2, 0.5)], 1, 4.0),
        ([(1, 0.1)] * 10, 1, 1.0),
        ([(3, 0.6)] * 3, 2, 6.0),  # no trial has a part of both
        ([(5, 2)] * 2, 3, 10.0),  # trials of two cores: one at a time on three
        ([], 2, 0.0),
        ([(3, 1e-9), (2, 1e-9)], 10**9, 3.0),
    ],
)
def test_wall_time_is_that_of_trials_handed_to_the_device_that_is_free_first(
    trials, num_devices, minutes
):
    assert prices.wall_minutes(trials, num_devices) == minutes


def test_plan_of_phase6_counts_hours_by_gpu_and_fewer_hours_on_more_gpus(tmp_path, capsys):
    options = ["--plan", "--format", "json", "--results", tmp_path, "--scale", "paper"]
    one = json.loads(run(capsys, *options, "--devices", "1", of=PHASE6)[1])
    eight = json.loads(run(capsys, *options, "--devices", "8", of=PHASE6)[1])
    hours = one["device_hours"]
    assert set(hours) == {"H100", "H200"}
    assert one["device"] == "GPU"
    assert one["wall_hours"] == pytest.approx(sum(hours.values()), abs=0.01)
    assert sum(hours.values()) / 8 <= eight["wall_hours"] < sum(hours.values()) / 6
    assert one["minutes_to_run"] == pytest.approx(sum(t["minutes"] for t in one["trials"]), abs=0.1)
    assert {t["gpu_type"] for t in one["trials"] if t["epochs"] > 50_000} == {"H200"}


def test_plan_as_a_table_splits_the_disk_and_names_the_prices(tmp_path):
    made = make_plan(tmp_path)
    text = plan_text.as_table(made, 2)
    checkpoints = size_text(sum(trial.checkpoint_bytes for trial in made.trials))
    assert "minutes by: 10 minutes for 1,000 epochs (8)" in text
    assert "wall time: about 0.2 minutes on 2 devices; 0.1 minutes for the longest trial" in text
    assert f"checkpoints {checkpoints}, curves and evaluations 0.0 MB" in text


@pytest.mark.parametrize("variant", ["baseline", "fullflow"])
@pytest.mark.parametrize("finetune", [True, False])
def test_checkpoints_take_the_disk_that_the_plan_has_for_them(variant, finetune, tmp_path):
    batches = {f"learner.{part}_batch_size": 2 for part in ("policy", "wm")}
    config = make_config(variant=variant, size=1, epochs=1, **batches)
    config = dataclasses.replace(config, world_model_from="a.ckpt", finetune_wm=finetune)
    learner, draws = build_learner(config), stream()
    learner.update(lambda size: windows(learner.window_horizon, size, draws), draws, 0.0)
    checkpoint.save(tmp_path / "a.pt", {}, learner, {}, {})
    ((both, _),) = plan.count_disk_bytes([config])
    assert (tmp_path / "a.pt").stat().st_size == pytest.approx(both / 2, rel=0.02)


def test_done_sweep_has_nothing_left_to_price(tmp_path):
    for trial in sweep.trials("tiny"):
        stand_at(tmp_path, trial, Status.EVALUATED, train_seconds=1.0, evaluation_seconds=1.0)
    made = make_plan(tmp_path)
    assert plan_text.as_table(made).splitlines()[-1].endswith("8 trials (8 done)")
    content = json.loads(plan_text.as_json(made, 1))
    assert (content["wall_hours"], content["device_hours"], content["priced_by"]) == (0, {}, {})


PRETRAIN = {"tasks": ("cheetah-run",), "iterations": 1000, "batch_size": 8}


def make_pretraining(variant):
    trial = {**SETTINGS, "variant": variant, "task": "cheetah-run", "seed": 0, "epochs": 1}
    return PretrainingConfig.of(TrialConfig.from_flat(trial), PRETRAIN)


def test_pretraining_is_priced_by_the_scale_and_another_kind_by_its_operations(tmp_path):
    scale = {"pretraining_minutes": {"mlp": 4.0}}
    mlp, flow = make_pretraining("baseline"), make_pretraining("flowwm")
    ratio = count_pretraining_flops(flow.trial, 8) / count_pretraining_flops(mlp.trial, 8)

    assert pretraining_prices.price(mlp, scale, tmp_path) == (4.0, "the scale's guess")
    minutes, source = pretraining_prices.price(flow, scale, tmp_path)
    assert (minutes, source) == (pytest.approx(4.0 * ratio), "operations")
    assert ratio > 1
    assert pretraining_prices.price(mlp, {}, tmp_path) is None


def test_half_done_pretraining_is_priced_by_its_own_pace(tmp_path):
    config = make_pretraining("baseline")
    folder = config.folder(tmp_path)
    folder.mkdir(parents=True)
    rows = [{"iteration": i, "episodes": "held_out", "seconds": i * 0.6} for i in (100, 250)]
    results.write_rows(folder / "curve.arrow", rows, results.PRETRAINING)

    found = pretraining_prices.price(config, {"pretraining_minutes": {"mlp": 4.0}}, tmp_path)

    assert found == (pytest.approx(7.5), "its own pace")


def test_pretrainings_one_after_another_need_the_disk_of_all_and_once_of_what_resumes(tmp_path):
    mlp, flow = make_pretraining("baseline"), make_pretraining("flowwm")
    sizes = [4 * num_parameters(build_shapes(one.trial).world_model) for one in (mlp, flow)]
    least, most = sorted(sizes)

    def count(*configs):
        return pretraining_prices.count_disk_bytes(configs, tmp_path)

    # Two checkpoints stay; while the larger runs: its best, and twice its weights and two moments.
    assert count(mlp, flow) == 2 * least + 7 * most
    folder = mlp.folder(tmp_path)
    folder.mkdir(parents=True)
    (folder / "best.ckpt").write_bytes(bytes(sizes[0]))
    (folder / "resume.ckpt").write_bytes(bytes(3 * sizes[0]))
    assert count(mlp) == 3 * sizes[0]  # the next resume.ckpt beside this one
    (folder / "last.ckpt").write_bytes(bytes(sizes[0]))
    assert count(mlp) == 0
    assert count(mlp, flow) == 7 * sizes[1]


def test_table_that_is_not_ours_to_read_stops_no_plan(tmp_path, monkeypatch, caplog):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "trials.arrow").write_text("x")

    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(results, "read_table", refuse)
    assert make_plan(tmp_path).minutes > 0
    assert "a table cannot be used to price the plan" in caplog.text


def test_table_that_lacks_a_column_stops_no_plan(tmp_path, caplog):
    (tmp_path / "other").mkdir()
    lacking = results.empty(results.TRIALS).drop_columns(["train_seconds"])
    results.write_table(tmp_path / "other" / "trials.arrow", lacking)
    assert make_plan(tmp_path).minutes > 0
    assert "lacks the columns train_seconds" in caplog.text

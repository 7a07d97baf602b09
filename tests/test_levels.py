"""What a sweep varies, whatever it is: a column of its tables, a part of its trials' names."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from analysis.arms import leave_out_replaced
from analysis.load import load_sweep
from analysis.summarize import main
from pwmray import plan, plan_text, registry, results, tables
from pwmray.config import TrialConfig
from pwmray.data.collected import collected_path
from pwmray.data.store import write_store
from pwmray.grid import axes_of
from pwmray.levels import level_of, names_of, setting_of
from pwmray.registry import Status
from pwmray.sweep import Sweep
from pwmray.trial_parts import read_parts
from tests.made_sweeps import changed_description, changed_trials
from tests.planned_sweeps import leave_results, make_plan
from tests.tiny import SCALES

TASK = "pendulum-spin"
INTEGRATORS = [
    {"world_model[flow].integrator": "euler", "policy[flow].integrator": "euler"},
    {"world_model[flow].integrator": "rk4", "policy[flow].integrator": "euler"},
]
FLOW_TUNINGS = {f"{n}_calls": {"policy[flow].num_substeps": n} for n in (1, 2)}
BARE = {"bare": {"instead": {}, "set": {}}}  # no widths, so that a size acts


def make_sweep(axis, levels, variants=("fullflow",), scales=SCALES, **changes):
    vary = {"variant": variants, axis: levels, "task": [TASK], "seed": [1, 2]}
    given = {"name": "few", "vary": vary, "hold": {"epochs": 4}, "compare": axis}
    return Sweep(**{**given, "within": ["variant"], "scales": scales, **changes})


def make_config(**settings):
    required = {"task": TASK, "seed": 42, "epochs": 4, "variant": "fullflow"}
    return TrialConfig.from_flat({**required, **settings})


def summarise(capsys, folder, *options):
    assert main(["few", "--results", str(folder), "--format", "json", *options]) == 0
    return json.loads(capsys.readouterr().out)


# The tables.


def test_versions_that_a_trial_was_trained_under_are_all_told(tmp_path):
    sweep = make_sweep("policy.units", [(8,)])
    folder = leave_results(sweep, tmp_path)
    first, second = (
        registry.trial_folder(tmp_path, trial.config.fingerprint)
        for trial in make_plan(sweep, tmp_path).trials
    )
    for place, starts in {
        first: [(0, "a"), (2, "b"), (4, "b"), (4, "c")],
        second: [(0, "a"), (2, "b"), (0, "c")],  # its checkpoint was lost
    }.items():
        (place / registry.EVENTS_FILE).unlink()
        registry.record(place, Status.PENDING, config=make_config(seed=1).to_dict())
        for epoch, commit in starts:
            registry.record(place, Status.QUEUED)
            code = {"git_commit": commit, "kernels": "off: x" if commit == "b" else "on"}
            if place == second or epoch:  # the first was begun by an earlier version
                code["code_fingerprint"] = f"f-{commit}"
            registry.record(place, Status.RUNNING, epoch=epoch, **code)
    found = tables.Tables(folder).join()["trials"]
    assert found["git_commit"].to_pylist() == ["a and b and c", "c"]
    assert found["code_fingerprint"].to_pylist() == [None, "f-c"]
    assert found["kernels"].to_pylist() == ["on and off: x", "on"]
    assert found["torch_version"].to_pylist() == [None, None]


def test_row_of_a_trial_is_of_where_it_stands_now(tmp_path):
    folder = tmp_path / "trials" / "0123"
    registry.queue(folder, make_config().to_dict())

    def row_at(*statuses, **fields):
        for status in statuses:
            registry.record(folder, status, **fields)
        return read_parts(folder).row

    failed = row_at(Status.RUNNING, Status.FAILED, reason="no memory")
    again = row_at(Status.QUEUED, Status.RUNNING)
    stopped = row_at(Status.CANCELLED, reason="preempted")
    rows = (failed, again, stopped)
    assert [row["reason"] for row in rows] == ["no memory", None, "preempted"]
    assert [row["attempts"] for row in rows] == [1, 2, 2]
    assert again["created_at"] == failed["created_at"] <= failed["started_at"]
    assert again["ended_at"] is None
    assert failed["ended_at"] < stopped["ended_at"]


def test_returns_of_a_trial_are_of_its_episodes_and_the_best_of_its_curve(tmp_path):
    folder = tmp_path / "trials" / "0123"
    registry.queue(folder, make_config().to_dict())
    for status in (Status.RUNNING, Status.COMPLETED, Status.EVALUATED):
        registry.record(folder, status)
    curve = [{"trial": "0123", "epoch": e, "return_mean": r} for e, r in ((1, 9.0), (2, 4.0))]
    results.write_rows(folder / "curve.arrow", [*curve, {"epoch": 3}], results.CURVE)
    episodes = [(None, 1.0), ("policy", 3.0), ("planner", 8.0)]  # an earlier version had no planner
    rows = [{"trial": "0123", "actor": actor, "return": value} for actor, value in episodes]
    results.write_rows(folder / "evaluations.arrow", rows, results.EVALUATIONS)
    row = read_parts(folder).row
    assert (row["best_return"], row["evaluation_episodes"]) == (9.0, 2)
    assert (row["return_mean"], row["plan_return_mean"]) == (2.0, 8.0)
    assert row["return_sd"] == pytest.approx(2**0.5)


# The analysis.


@pytest.mark.parametrize(
    ("axis", "levels", "found"),
    [
        ("learner.horizon", [5, 3], [3, 5]),
        ("learner.model_lr", [1e-3, 1], [1e-3, 1.0]),
        ("world_model.num_substeps", [1, 2], [1, 2]),
        ("policy[flow].num_substeps", [1, 2], [1, 2]),
        ("world_model.integrator", ["euler", "rk4"], ["euler", "rk4"]),
        ("policy.units", [(8,), (16, 8)], ["[8]", "[16, 8]"]),
        ("fidelity.td_lambda", [True, False], [True, False]),
        ("data.num_episodes", [6, 7], [6, 7]),
        ("evaluation.every_epochs", [1, 2], [1, 2]),
        (
            "integrators",
            INTEGRATORS,
            [
                "world_model[flow].integrator=euler, policy[flow].integrator=euler",
                "world_model[flow].integrator=rk4, policy[flow].integrator=euler",
            ],
        ),
    ],
)
def test_whatever_varies_is_compared(axis, levels, found, tmp_path, capsys):
    leave_results(make_sweep(axis, levels), tmp_path)
    summary = summarise(capsys, tmp_path, "--compare", axis)
    assert [arm[axis] for arm in summary["arms"]] == found
    (comparison,) = summary["comparisons"][0]["rows"]
    assert comparison["differences"] == []
    assert (comparison["against"], comparison[axis]) == tuple(found)


def test_sizes_are_compared(tmp_path, capsys):
    leave_results(make_sweep("size", [5, 1], scales=BARE), tmp_path)
    summary = summarise(capsys, tmp_path)
    assert [arm["size"] for arm in summary["arms"]] == [1, 5]
    assert summary["comparisons"][0]["rows"][0]["differences"] == []


def test_level_that_says_most_of_a_trial_is_its_level():
    levels = {"default": {"variant": "fullflow"}}
    levels |= {"wide": levels["default"] | {"learner.horizon": 8}, "fast": {"learner.horizon": 2}}
    configs = [make_config(**{"learner.horizon": horizon}) for horizon in (5, 8, 2)]
    found = [level_of(config, "tuning", (), named={"tuning": levels}) for config in configs]
    assert found == ["default", "wide", "default"]  # the first of equals


def test_setting_that_an_edited_sweep_no_longer_holds_is_a_difference(tmp_path, capsys):
    leave_results(make_sweep("policy.units", [(8,)], variants=["baseline"]), tmp_path)
    later = make_sweep("policy.units", [(8,)], hold={"epochs": 4, "learner.horizon": 4})
    leave_results(later, tmp_path)
    (row,) = summarise(capsys, tmp_path, "--compare", "variant")["comparisons"][0]["rows"]
    assert row["verdict"] == "Not comparable"
    assert {difference["field"] for difference in row["differences"]} == {"learner.horizon"}


def test_trials_of_one_seed_and_arm_are_named(tmp_path, capsys):
    leave_results(make_sweep("policy.units", [(8,)]), tmp_path)
    later = make_sweep("policy.units", [(8,)], hold={"epochs": 4, "learner.horizon": 4})
    leave_results(later, tmp_path)
    said = "several trials of one seed of an arm, of which the latest counts"
    (note,) = [note for note in summarise(capsys, tmp_path)["notes"] if said in note]
    assert note.count("(2 trials)") == 2


def test_the_trial_that_the_sweep_asked_for_last_counts_for_its_seed(tmp_path, capsys):
    first = make_sweep("policy.units", [(8,)])
    later = make_sweep("policy.units", [(8,)], hold={"epochs": 4, "learner.horizon": 4})
    leave_results(first, tmp_path)
    leave_results(later, tmp_path, better_by=500.0)
    (arm,) = summarise(capsys, tmp_path)["arms"]
    assert (arm["n"], arm["n_planned"], arm["return_mean"]) == (2, 2, 666.0)
    assert arm["return_per_hour"] == pytest.approx(666.0 * 3600.0)
    leave_results(first, tmp_path)  # the file is as it was; nothing runs again
    assert summarise(capsys, tmp_path)["arms"][0]["return_mean"] == 166.0


def test_trials_that_others_replaced_are_not_compared(tmp_path, capsys):
    both = ["baseline", "fullflow"]
    leave_results(make_sweep("policy.units", [(8,)], variants=both), tmp_path)
    held = {"hold": {"epochs": 4, "learner.horizon": 4}}
    leave_results(make_sweep("policy.units", [(8,)], variants=both[:1], **held), tmp_path)
    (row,) = summarise(capsys, tmp_path, "--compare", "variant")["comparisons"][0]["rows"]
    assert [difference["field"] for difference in row["differences"]] == ["learner.horizon"]
    leave_results(make_sweep("policy.units", [(8,)], variants=both, **held), tmp_path)
    (row,) = summarise(capsys, tmp_path, "--compare", "variant")["comparisons"][0]["rows"]
    assert (row["differences"], row["verdict"]) == ([], "Tie (Both Low)")


def test_trials_that_others_replaced_are_in_no_note_of_what_looks_odd(tmp_path, capsys):
    leave_results(make_sweep("policy.units", [(8,)]), tmp_path)
    assert "At floor" in " ".join(summarise(capsys, tmp_path)["notes"])  # 116 on pendulum-spin
    later = make_sweep("policy.units", [(8,)], hold={"epochs": 4, "learner.horizon": 4})
    folder = leave_results(later, tmp_path, better_by=500.0)
    assert "At floor" not in " ".join(summarise(capsys, tmp_path)["notes"])
    counting = leave_out_replaced(load_sweep(folder))
    assert [trial.final_return for trial in counting.trials] == [616.0, 716.0]


def test_what_varies_beside_the_compared_factor_groups_it(tmp_path, capsys):
    sweep = make_sweep(
        "learner.horizon",
        [3, 5],
        variants=["baseline", "fullflow"],
        compare="variant",
        within=["learner.horizon"],
    )
    leave_results(sweep, tmp_path)
    rows = summarise(capsys, tmp_path)["comparisons"][0]["rows"]
    assert [(row["variant"], row["learner.horizon"]) for row in rows] == [
        ("fullflow", 3),
        ("fullflow", 5),
    ]


def test_axis_of_one_kind_does_not_apply_to_the_other(tmp_path, capsys):
    axis = "world_model[flow].num_substeps"
    leave_results(make_sweep(axis, [2, 1], variants=["baseline", "flowwm"]), tmp_path)
    summary = summarise(capsys, tmp_path, "--compare", axis)
    assert [(arm["variant"], arm[axis]) for arm in summary["arms"]] == [
        ("baseline", None),
        ("flowwm", 1),
        ("flowwm", 2),
    ]


@pytest.mark.parametrize("form", ["table", "md", "csv"])
def test_every_format_and_the_figures_take_any_axis(form, tmp_path, capsys):
    leave_results(make_sweep("learner.horizon", [3, 5]), tmp_path)
    options = ["few", "--results", str(tmp_path), "--format", form, "--plot", "--per-seed"]
    assert main(options) == 0
    assert "learner.horizon" in capsys.readouterr().out


def test_checkpoints_of_the_methodologies_compared_may_differ_where_one_has_none(tmp_path, capsys):
    folder = leave_results(make_sweep("learner.horizon", [3, 5]), tmp_path)
    sources = {3: ("scratch", "joint_from_scratch"), 5: ("mlp-1-a", "policy_finetuning")}
    with changed_trials(folder) as rows:
        for row in rows:
            row["config"] = rows[0]["config"]
            row["world_model_from"], row["methodology"] = sources[row.pop("learner.horizon")]
    with changed_description(folder) as described:
        described |= {"varies": ["variant", "methodology", "task", "seed"]}
        described |= {"compare": "methodology"}
        described["axes"] = {"methodology": ["world_model_from", "finetune_wm"]}
    (comparison,) = summarise(capsys, tmp_path)["comparisons"][0]["rows"]
    assert comparison["differences"] == []


@pytest.mark.parametrize("options", [[], ["--per-seed"]])
def test_table_cuts_nothing_off_however_many_axes_there_are(options, tmp_path, capsys):
    sweep = make_sweep("learner.policy_batch_size", [16, 32])
    vary = {**sweep.vary, "integrators": INTEGRATORS, "fidelity": ["corrected"]}
    leave_results(dataclasses.replace(sweep, vary=vary), tmp_path)
    assert main(["few", "--results", str(tmp_path), *options]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    _, _, table = printed.partition("Verdicts along learner.policy_batch_size")
    assert {"interval", "verdict", "euler/euler", "(Both"} <= set(table.split())


# The tables.


def test_table_has_a_column_for_what_no_other_tells(tmp_path):
    folder = leave_results(make_sweep("learner.horizon", [3, 5]), tmp_path)
    table = results.read_table(folder / "trials.arrow")
    assert table.column_names == [*results.TRIALS.names, "learner.horizon"]
    assert table["learner.horizon"].to_pylist() == [3, 5, 3, 5]


def test_sweep_that_grew_an_axis_knows_it_of_earlier_trials(tmp_path):
    leave_results(make_sweep("policy.units", [(8,), (16,)]), tmp_path)
    folder = leave_results(make_sweep("learner.horizon", [5, 7]), tmp_path)
    sweep = load_sweep(folder)
    assert [trial.factors["learner.horizon"] for trial in sweep.trials] == [5, 7, 5, 7, 3, 3, 3, 3]


# The names.


@pytest.mark.parametrize(
    ("axis", "levels"),
    [
        ("learner.horizon", [3, 5]),
        ("fidelity", ["published", "corrected"]),
        ("fidelity.td_lambda", [True, False]),
        ("policy.units", [(8,), (16,)]),
        ("integrators", INTEGRATORS),
        ("rate", {"\u00fc" * 170: {"learner.actor_lr": 0.1}, "high": {"learner.actor_lr": 1.0}}),
    ],
)
def test_every_trial_has_a_link_of_its_own(axis, levels, tmp_path):
    folder = leave_results(make_sweep(axis, levels), tmp_path)
    links = list((folder / "trials").iterdir())
    assert {path.resolve().name for path in links} == set(
        json.loads((folder / "sweep.json").read_text())["trials"]
    )
    assert len(links) == 4
    assert all((path / "events.jsonl").exists() for path in links)


def test_names_say_the_usual_four_and_what_else_varies(tmp_path):
    sweep = make_sweep("size", [1, 5], scales=BARE)
    names = [trial.name for trial in make_plan(sweep, tmp_path).trials]
    assert names[:2] == ["pendulum-spin-fullflow-4-seed1-1", "pendulum-spin-fullflow-4-seed1-5"]


def test_readable_name_keeps_a_level_that_has_a_slash(tmp_path):
    levels = {"w/o penalty": {}, "with": {"learner.action_penalty": 0.1}}
    sweep = make_sweep("arm", levels, compare="arm")
    names = [trial.name for trial in make_plan(sweep, tmp_path).trials]
    assert names[0] == "pendulum-spin-fullflow-4-seed1-w_o_penalty"


def test_names_that_would_be_the_same_end_in_the_fingerprint():
    configs = [make_config(), make_config(**{"learner.horizon": 9})]
    names = names_of(configs, {"seed": ("seed",)})
    assert names == [f"{c.label}-{c.fingerprint[:8]}" for c in configs]


def test_a_link_of_an_earlier_trial_is_not_taken_from_it(tmp_path):
    first = make_sweep("learner.horizon", [3], compare="seed", within=[])
    leave_results(first, tmp_path)
    changed = dataclasses.replace(first, hold={"epochs": 4, "learner.discount": 0.5})
    folder = leave_results(changed, tmp_path)
    assert len({path.resolve() for path in (folder / "trials").iterdir()}) == 4


@pytest.mark.parametrize(
    "order", [["2_calls", "1_calls", "3_calls"], ["3_calls", "1_calls", "2_calls"]]
)
def test_links_of_levels_that_were_renamed_follow_them_though_few_are_run(order, tmp_path):
    settings = [{"policy[flow].num_substeps": n} for n in (1, 2, 3)]
    wrong = dict(zip(order, settings, strict=True))
    right = {f"{n}_calls": level for n, level in zip((1, 2, 3), settings, strict=True)}
    leave_results(make_sweep("tuning", wrong, within=["tuning"]), tmp_path)
    sweep = make_sweep("tuning", right, within=["tuning"])
    few = plan.make(sweep, "tiny", sweep.trials("tiny")[:1], tmp_path)
    folder = tables.open_sweep(few, "python few.py")
    expected = {t.name: t.config.fingerprint for t in make_plan(sweep, tmp_path).trials}
    links = {path.name: path.resolve().name for path in (folder / "trials").iterdir()}
    assert links == expected


def test_links_of_renamed_levels_follow_them_though_a_trials_folder_was_deleted(tmp_path):
    levels = {"slow": {"learner.actor_lr": 0.1}, "fast": {"learner.actor_lr": 1.0}}
    leave_results(make_sweep("rate", levels, within=["rate"]), tmp_path)
    sweep = make_sweep("rate", {"low": levels["slow"], "high": levels["fast"]}, within=["rate"])
    deleted, *others = make_plan(sweep, tmp_path).trials
    shutil.rmtree(registry.trial_folder(tmp_path, deleted.config.fingerprint))
    few = plan.make(sweep, "tiny", [trial.config for trial in others][-1:], tmp_path)
    folder = tables.open_sweep(few, "python few.py")
    assert {trial.name for trial in others} <= {path.name for path in (folder / "trials").iterdir()}


def test_levels_of_widths_are_not_taken_for_renamed_ones(tmp_path, monkeypatch):
    levels = {"thin": {"policy.units": (8,)}, "wide": {"policy.units": (16, 8)}}
    sweep = make_sweep("width", levels, within=["width"])
    few = plan.make(sweep, "tiny", sweep.trials("tiny")[:1], tmp_path)
    named = []
    monkeypatch.setattr(tables, "name_anew", lambda *asked: named.append(asked) or {})
    for planned in (make_plan(sweep, tmp_path), few, few):
        tables.open_sweep(planned, "python few.py")
    assert len(named) == 1  # the first knows of no levels yet


def test_links_by_the_names_of_an_earlier_version_are_replaced(tmp_path):
    sweep = make_sweep("learner.horizon", [3, 5])
    planned = make_plan(sweep, tmp_path)
    config = planned.trials[0].config
    links = tmp_path / "few" / "trials"
    links.mkdir(parents=True)
    (links / config.label).symlink_to(f"../../trials/{config.fingerprint}")
    (links / ".DS_Store").touch()  # what is no link is nobody's name
    tables.open_sweep(planned, "python few.py")
    there = {path.name for path in links.iterdir()}
    assert there == {".DS_Store", *(trial.name for trial in planned.trials)}


def test_links_lead_to_the_trials_from_a_sweep_moved_to_another_disk(tmp_path):
    results, disk = tmp_path / "results", tmp_path / "some" / "disk"
    planned = make_plan(make_sweep("learner.horizon", [3, 5]), results)
    for trial in planned.trials:
        registry.trial_folder(results, trial.config.fingerprint).mkdir(parents=True)
    folder = tables.open_sweep(planned, "python few.py")
    disk.mkdir(parents=True)
    (results / "few").rename(disk / "few")
    folder.symlink_to(disk / "few")
    tables.open_sweep(planned, "python few.py")
    links = {path.name: path.resolve() for path in (folder / "trials").iterdir()}
    assert links == {
        trial.name: registry.trial_folder(results, trial.config.fingerprint).resolve()
        for trial in planned.trials
    }


def test_plan_shows_the_axes_of_the_sweep(tmp_path):
    planned = make_plan(make_sweep("learner.horizon", [3, 5]), tmp_path)
    assert plan_text.as_table(planned).splitlines()[0].split()[:6] == [
        "trial", "task", "variant", "epochs", "seed", "learner.horizon",
    ]  # fmt: skip
    assert json.loads(plan_text.as_json(planned))["trials"][1]["levels"] == {"learner.horizon": 5}


# Levels with names.

TUNINGS = {
    "fine": {"world_model.num_substeps": 8, "policy.num_substeps": 2},
    "fast": {"world_model.integrator": "euler", "policy.num_substeps": 2},
}


def test_named_levels_are_shown_by_their_names_in_plan_tables_links_and_verdicts(tmp_path, capsys):
    sweep = make_sweep("tuning", TUNINGS)
    planned = make_plan(sweep, tmp_path)
    printed = plan_text.as_table(planned).splitlines()
    assert printed[0].split()[5] == "tuning"
    assert [line.split()[5] for line in printed[1:5]] == ["fine", "fast"] * 2
    folder = leave_results(sweep, tmp_path)
    table = results.read_table(folder / "trials.arrow")
    assert table["tuning"].to_pylist() == ["fine", "fast"] * 2
    assert all(path.name.endswith(("-fine", "-fast")) for path in (folder / "trials").iterdir())
    (comparison,) = summarise(capsys, tmp_path)["comparisons"][0]["rows"]
    assert {comparison["against"], comparison["tuning"]} == {"fine", "fast"}
    assert comparison["differences"] == []


def test_named_level_of_a_scale_takes_the_place_of_the_sweeps_own(tmp_path):
    coarse = {"tiny": {"tuning": {"fine": {"world_model.num_substeps": 3}}}}
    sweep = make_sweep("tuning", TUNINGS, at_scale=coarse)
    planned = make_plan(sweep, tmp_path)
    assert [t.levels["tuning"] for t in planned.trials] == ["fine", "fine"]
    assert [t.config.world_model.num_substeps for t in planned.trials] == [3, 3]


def test_named_level_is_told_from_a_pretrained_model_and_from_tuples():
    named = {"arm": {"a": {"finetune_wm": False, "world_model_from": "pretrained"}}}
    named["arm"]["b"] = {"policy.units": (8, 4)}
    frozen = make_config(world_model_from="some.ckpt", finetune_wm=False)
    assert level_of(frozen, "arm", ("finetune_wm", "world_model_from"), named=named) == "a"
    assert level_of(make_config(**{"policy.units": (8, 4)}), "arm", (), named=named) == "b"


def test_sweep_of_one_level_is_summarised_against_the_floor(tmp_path, capsys):
    sweep = make_sweep("tuning", {"fine": TUNINGS["fine"]}, compare="variant", within=["task"])
    leave_results(sweep, tmp_path)
    summary = summarise(capsys, tmp_path)
    assert [(arm["tuning"], arm["n"]) for arm in summary["arms"]] == [("fine", 2)]
    assert summary["arms"][0]["floor"] > 0
    assert [comparison["rows"] for comparison in summary["comparisons"]] == [[]]


@pytest.mark.parametrize("form", ["table", "json", "html"])
def test_returns_are_told_where_the_sweep_compares_what_no_verdict_is_about(form, tmp_path, capsys):
    sweep = make_sweep("tuning", {"fine": TUNINGS["fine"]}, compare="task", within=[])
    leave_results(sweep, tmp_path)
    assert main(["few", "--results", str(tmp_path), "--format", form]) == 0
    assert "Nothing to compare: variant has one level here." in capsys.readouterr().out


def test_trial_at_none_of_the_named_levels_is_told_by_its_settings():
    keys = ("world_model.num_substeps", "policy.num_substeps")
    level = level_of(make_config(), "tuning", keys, named={"tuning": TUNINGS})
    assert level == "world_model.num_substeps=4, policy.num_substeps=2"


def test_named_level_of_another_kind_is_not_the_trials():
    named = {"steps": {"two": {"policy[flow].num_substeps": 2}}}
    config = make_config(variant="baseline")
    assert level_of(config, "steps", ("policy[flow].num_substeps",), named=named) is None


@pytest.mark.parametrize(
    ("axis", "levels", "said"),
    [
        ("tuning", {"fine": 8}, "'fine' is 8; it must be a mapping of config keys"),
        ("tuning", [], "axis 'tuning' has no levels"),
        ("policy", TUNINGS, "'policy' is a column of every sweep's trials"),
        ("sweep", TUNINGS, "'sweep' is a column of every sweep's trials"),
        ("status", INTEGRATORS, "'status' is a column of every sweep's trials"),
    ],
)
def test_levels_that_cannot_be_told_are_refused(axis, levels, said):
    with pytest.raises(ValueError, match="sweep few: axis ") as refused:
        make_sweep(axis, levels).check()
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("axis", "levels", "variant"),
    [
        ("policy[flow].num_substeps", [1, 2], "baseline"),
        ("world_model.kind", ["mlp", "flow"], "baseline"),
        ("runtime.num_cpus", [1, 2], "fullflow"),
        ("tuning", FLOW_TUNINGS, "baseline"),
        ("planner.horizon", [2, 3], "baseline"),
    ],
)
def test_axis_that_changes_nothing_is_refused(axis, levels, variant):
    sweep = make_sweep(axis, levels, [variant])
    named = re.escape(f"sweep few: axis {axis!r} changes no trial")
    with pytest.raises(ValueError, match=named):
        sweep.cells("tiny")


def test_axis_may_change_nothing_of_some_trials():
    sweep = make_sweep("policy[flow].num_substeps", [1, 2])
    sweep = dataclasses.replace(sweep, vary={**sweep.vary, "variant": ["baseline", "fullflow"]})
    assert len(sweep.cells("tiny")) == 6
    assert len(dataclasses.replace(sweep, vary={**sweep.vary, "seed": [1]}).cells("tiny")) == 3


def test_lists_are_levels_too():
    assert len(make_sweep("policy.units", [[16], [32]]).cells("tiny")) == 4


def test_scale_of_a_sweep_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="sweep few: at_scale: unknown scale 'tny'"):
        make_sweep("tuning", TUNINGS, at_scale={"tny": {"epochs": 2}}).check()


def test_columns_of_a_plan_stand_below_their_names_whatever_a_variant_is_called(
    tmp_path, monkeypatch
):
    planned = make_plan(make_sweep("learner.horizon", [3, 5], ["baseline", "fullflow"]), tmp_path)
    monkeypatch.setattr("pwmray.variants.VARIANTS", {})  # so that they are called by their kinds
    header, *rows = plan_text.as_table(planned).splitlines()[:9]
    assert {row.split()[2] for row in rows} == {"mlp+gaussian", "flow+flow"}
    assert {row.index(" new ") for row in rows} == {header.index(" state ")}


# A config read by the keys that sweeps write.


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 4),
        ("variant", "fullflow"),
        ("methodology", "joint_from_scratch"),
        ("fidelity", "corrected"),
        ("fidelity.td_lambda", True),
        ("learner.horizon", 16),
        ("world_model[flow].num_substeps", 4),
        ("world_model[mlp].latent_dim", None),
        ("world_model.width", None),
        ("size", 48),
        ("learner", None),
        ("integrators", None),
    ],
)
def test_setting_is_read_by_its_key(key, value):
    assert setting_of(make_config(), key) == value


@pytest.mark.parametrize("variant", ["baseline", "flowpolicy", "flowwm", "fullflow"])
@pytest.mark.parametrize("size", [1, 5, 19, 48, 317, "laptop"])
def test_size_is_told_from_the_widths(size, variant):
    assert setting_of(make_config(size=size, variant=variant), "size") == size


def test_size_with_another_width_has_a_star():
    config = make_config(**{"size": 5, "world_model.task_dim": 96})
    assert setting_of(config, "size") == "5*"


def test_axis_of_several_keys_has_them_all_at_any_scale():
    vary = {"seed": [1], "way": [{"epochs": 1}, {"learner.horizon": 2}]}
    axes = axes_of(vary, {"laptop": {"way": [{"learner.discount": 0.5}]}})
    assert axes == {"seed": ("seed",), "way": ("epochs", "learner.horizon", "learner.discount")}


def test_level_of_an_axis_with_one_key_of_its_own_is_its_value():
    assert level_of(make_config(), "steps", ("learner.horizon",)) == 16


def test_run_names_the_done_trials_of_other_data_than_is_there_now(tmp_path, capsys):
    sweep = make_sweep("policy.num_substeps", [2, 4])
    leave_results(sweep, tmp_path)
    trial = sweep.trials(next(iter(sweep.scales)))[0]
    path = collected_path(TASK, trial.data, tmp_path / "data")
    arrays = np.zeros((5, 3), np.float32), np.zeros((5, 1), np.float32), np.zeros(5, np.float32)
    write_store(path, TASK, *arrays, [5], ["uniform"], trial.data.collection)
    places = ["--results", str(tmp_path), "--data", str(tmp_path / "data")]
    with pytest.raises(SystemExit):
        sweep.main(["--scale", "tiny", "--wandb", "off", *places])
    assert "note: 4 done trials were trained on data of" in capsys.readouterr().out


def test_run_names_the_trials_that_begin_again_for_their_data_changed(
    tmp_path, capsys, monkeypatch
):
    sweep = make_sweep("policy.num_substeps", [2])
    trials = sweep.trials(next(iter(sweep.scales)))
    for trial in trials:
        folder = registry.trial_folder(tmp_path, trial.fingerprint)
        registry.record(folder, Status.PENDING, config=trial.to_dict())
        registry.record(folder, Status.QUEUED)
        registry.record(folder, Status.RUNNING, data_fingerprint="0" * 16)
        (folder / "checkpoint.pt").touch()
    path = collected_path(TASK, trials[0].data, tmp_path / "data")
    arrays = np.zeros((5, 3), np.float32), np.zeros((5, 1), np.float32), np.zeros(5, np.float32)
    write_store(path, TASK, *arrays, [5], ["uniform"], trials[0].data.collection)
    monkeypatch.setattr("pwmray.room.free_bytes", lambda path: 0)  # further it is not to go
    places = ["--results", str(tmp_path), "--data", str(tmp_path / "data")]
    with pytest.raises(SystemExit):
        sweep.main(["--scale", "tiny", "--wandb", "off", *places])
    said = f"note: {len(trials)} trials begin again at epoch 0, since the data of {TASK} changed: "
    assert said in capsys.readouterr().out

"""Several sweeps at once, averaging over factors, some tasks alone, and the files written."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from analysis.formats.tex import escape
from analysis.load import Sweep, load_sweep
from analysis.merge import keep_tasks, merge_sweeps
from analysis.report import summarize_sweep
from analysis.summarize import main
from tests.made_sweeps import (
    CONTROLS,
    KINDS,
    changed_description,
    changed_trials,
    make_row,
    read_csv,
)
from tests.squares import write_square, write_trials

CELLS = {"baseline": (300.0, 310.0, 320.0), "fullflow": (500.0, 510.0, 520.0)}
LOWER = {"baseline": (200.0, 210.0, 220.0), "fullflow": (400.0, 410.0, 420.0)}
# Returns by horizon and seed of each fidelity: averaged 110, 120 | 210, 240.
HORIZONS = {
    "published": {4: (300.0, 310.0), 8: (320.0, 330.0)},
    "corrected": {4: (400.0, 440.0), 8: (420.0, 440.0)},
}

PARTS = ("world_model", "policy")
FLOW_OR_MLP = "world_model.kind"
SUBSTEPS = "num_substeps"


def write_pair(folder: Path, **changes: Any) -> list[str]:
    """Write two sweeps of one task; `changes` edits the second one's trials."""
    write_square(folder / "first", {"reacher-easy": LOWER})
    write_square(folder / "second", {"reacher-easy": CELLS}, **changes)
    return ["first", "second", "--results", str(folder)]


def merge_pair(folder: Path) -> Sweep:
    return merge_sweeps([load_sweep(folder / name) for name in ("first", "second")])


def write_horizons(folder: Path, horizons: dict = HORIZONS, **changes: Any) -> Path:
    """Write a sweep over fidelity and horizon; `changes` edits the corrected trials."""
    rows = [
        make_row("reacher-easy", "baseline", 100, seed, fidelity=fidelity, return_mean=value)
        | {"trial": f"{fidelity}-{horizon}-{seed}"}
        | {"config": json.dumps({"learner": {"horizon": horizon}})}
        | (changes if fidelity == "corrected" else {})
        for fidelity, by_horizon in horizons.items()
        for horizon, values in by_horizon.items()
        for seed, value in enumerate(values, start=1)
    ]
    write_trials(folder, rows, ["fidelity", "learner.horizon", "task", "seed"], "fidelity")
    return folder


def write_kinds(folder: Path) -> Path:
    """Write a sweep over both kinds and the substeps of the flow world model."""
    variants = {kinds: name for name, kinds in KINDS.items()}
    rows = [
        make_row("reacher-easy", variants[world_model, policy], 100, seed, return_mean=value)
        | {"trial": f"{world_model}-{substeps}-{policy}-{seed}", "config": json.dumps(config)}
        for world_model, substeps in (("mlp", None), ("flow", 2), ("flow", 4))
        for policy, returns in (("gaussian", (300.0, 310.0)), ("flow", (500.0, 510.0)))
        for seed, value in enumerate(returns, start=1)
        for steps in [{SUBSTEPS: substeps} if substeps else {}]
        for config in [{"world_model": {"kind": world_model} | steps, "policy": {"kind": policy}}]
    ]
    axes = [FLOW_OR_MLP, f"world_model[flow].{SUBSTEPS}", "policy.kind", "task", "seed"]
    write_trials(folder, rows, axes, "policy.kind")
    return folder


def compare_fidelity(folder: Path):
    return summarize_sweep(load_sweep(folder), "fidelity", within=["task"]).comparisons[0]


# Several sweeps.


def test_two_sweeps_are_compared_by_their_names(tmp_path, capsys):
    assert main([*write_pair(tmp_path), "--compare", "sweep", "--format", "md"]) == 0
    printed = capsys.readouterr().out
    assert "# first + second" in printed
    assert (
        "| reacher-easy | baseline | second | +100.0 | [77, 123] | <.001 | Second wins" in printed
    )


def test_what_keeps_two_sweeps_apart_is_named(tmp_path, capsys):
    options = write_pair(tmp_path, epochs=200, epochs_reached=200)
    assert main([*options, "--compare", "sweep"]) == 0
    said = "Nothing to compare: the levels of sweep differ in epochs too."
    assert said in capsys.readouterr().out
    assert (
        main([*options[:1], *options[2:], "--tasks", "reacher-easy", "--compare", "variant"]) == 0
    )
    assert "Nothing to compare" not in capsys.readouterr().out


def test_sweeps_kept_apart_by_one_factor_are_compared_by_the_command_that_the_note_names(
    tmp_path, capsys
):
    options = write_pair(tmp_path, methodology="policy_finetuning")
    with changed_description(tmp_path / "second") as described:
        described["varies"].append("methodology")

    assert main([*options, "--compare", "sweep"]) == 0
    named = re.search(r"\(to compare that: (.*?)\)", " ".join(capsys.readouterr().out.split()))
    assert named is not None
    assert main([*options, *named[1].split(), "--format", "md"]) == 0
    row = "| reacher-easy | baseline | frozen | +100.0 | [77, 123] | <.001 | frozen wins"
    assert row in capsys.readouterr().out


def test_arms_of_two_sweeps_are_never_one(tmp_path):
    write_pair(tmp_path)
    merged = merge_pair(tmp_path)
    summary = summarize_sweep(merged, "variant")
    assert [len(arm.trials) for arm in summary.arms] == [3, 3, 3, 3]
    assert [row.level.factors["sweep"] for row in summary.comparisons[0].rows] == [
        "first", "second",
    ]  # fmt: skip


def test_settings_that_two_sweeps_hold_differently_are_named(tmp_path):
    config = json.loads(CONTROLS["config"]) | {"learner": {"horizon": 8}}
    write_pair(tmp_path, config=json.dumps(config))
    merged = merge_pair(tmp_path)
    row = summarize_sweep(merged, "sweep").comparisons[0].rows[0]
    assert row.verdict.name == "Not comparable"
    assert [str(difference) for difference in row.differences] == ["learner.horizon: - against 8"]


def test_where_and_how_fast_trials_run_is_no_difference(tmp_path):
    config = json.loads(CONTROLS["config"]) | {"runtime": {"gpu_fraction": 0.5, "gpu_type": "H100"}}
    write_pair(tmp_path, config=json.dumps(config))
    merged = merge_pair(tmp_path)
    row = summarize_sweep(merged, "sweep").comparisons[0].rows[0]
    assert (row.verdict.name, row.differences) == ("Second wins", ())


def test_seeds_are_planned_task_by_task(tmp_path):
    more = {name: (*returns, returns[0] + 5.0) for name, returns in CELLS.items()}
    write_square(tmp_path / "first", {"reacher-easy": CELLS, "walker-stand": more})
    summary = summarize_sweep(load_sweep(tmp_path / "first"))
    assert [row.verdict.name for row in summary.comparisons[0].rows] == ["Fullflow wins"] * 2
    assert [row.verdict.num_seeds for row in summary.comparisons[0].rows] == [3, 4]
    assert not any("Short of seeds" in note for note in summary.notes)


def test_a_factor_that_one_sweep_holds_stands_at_the_level_held(tmp_path):
    write_horizons(tmp_path / "first")
    write_square(tmp_path / "second", {"reacher-easy": CELLS})
    merged = merge_pair(tmp_path)
    assert {trial.factors["learner.horizon"] for trial in merged.trials} == {4, 8, None}
    assert {trial.factors["fidelity"] for trial in merged.trials} == {"published", "corrected"}


def test_each_sweep_is_complete_with_the_seeds_of_its_own(tmp_path):
    more = {name: (*values, 1.0) for name, values in CELLS.items()}
    write_square(tmp_path / "first", {"reacher-easy": CELLS})
    write_square(tmp_path / "second", {"reacher-easy": more})
    merged = merge_pair(tmp_path)
    assert [arm.num_planned for arm in summarize_sweep(merged).arms] == [3, 4, 3, 4]
    assert merged.num_planned == len(merged.trials) == 14
    row = summarize_sweep(merged, "sweep").comparisons[0].rows[0]
    assert row.verdict.name == "Incomplete (3/4 seeds)"


def test_a_seed_that_one_sweep_alone_planned_and_lost_is_missing(tmp_path):
    more = {name: (*values, 1.0) for name, values in CELLS.items()}
    write_square(tmp_path / "first", {"reacher-easy": CELLS})
    folder = write_square(tmp_path / "second", {"reacher-easy": more})
    with changed_trials(folder) as rows:
        rows[:] = [row | ({"status": "FAILED"} if row["seed"] == 4 else {}) for row in rows]
    merged = merge_pair(tmp_path)
    for compare, within in (("sweep", None), ("variant", ["task"])):
        rows = summarize_sweep(merged, compare, within=within).comparisons[0].rows
        assert {row.verdict.name for row in rows} == {"Incomplete (3/4 seeds)"}


def test_a_sweep_given_twice_is_refused(tmp_path, capsys):
    write_square(tmp_path / "s", {"reacher-easy": CELLS})
    assert main(["s", "s", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: sweep 's' is given twice\n"


def test_two_sweeps_of_one_name_are_not_taken_for_one(tmp_path, capsys):
    for results in ("laptop", "cluster"):
        write_square(tmp_path / results / "s", {"reacher-easy": CELLS})
    folders = [str(tmp_path / results / "s") for results in ("laptop", "cluster")]
    assert main(folders) == 2
    told = f"error: {folders[0]} and {folders[1]} are both of sweep 's', and sweeps are told apart"
    assert capsys.readouterr().err.startswith(told)
    with changed_description(tmp_path / "cluster" / "s") as described:
        described["name"] = "t"
    assert main([*folders, "--compare", "sweep"]) == 0


# Averaging.


def test_returns_are_averaged_over_what_is_not_kept_apart(tmp_path):
    table = compare_fidelity(write_horizons(tmp_path / "s"))
    assert table.averaged == ("learner.horizon",)
    row = table.rows[0]
    assert row.baseline.returns == {1: 310.0, 2: 320.0}
    assert row.level.returns == {1: 410.0, 2: 440.0}
    assert (row.verdict.num_seeds, row.verdict.welch.difference) == (2, 110.0)


def test_a_seed_that_lacks_one_of_the_levels_is_missing(tmp_path):
    folder = write_horizons(tmp_path / "s")
    with changed_trials(folder) as rows:
        rows[-1]["status"] = "FAILED"
    assert compare_fidelity(folder).rows[0].verdict.name == "Incomplete (1/2 seeds)"


def test_the_guard_looks_at_every_part_of_an_average(tmp_path):
    table = compare_fidelity(write_horizons(tmp_path / "s", git_commit="c2"))
    assert [str(d) for d in table.rows[0].differences] == ["git_commit: c1 against c2"]


def test_averages_over_different_levels_are_not_compared(tmp_path):
    horizons = HORIZONS | {"corrected": {4: (400.0, 440.0), 16: (420.0, 440.0)}}
    row = compare_fidelity(write_horizons(tmp_path / "s", horizons)).rows[0]
    assert [str(difference) for difference in row.differences] == [
        "averaged over: learner.horizon 4; learner.horizon 8 against "
        "learner.horizon 4; learner.horizon 16"
    ]


def test_an_unknown_factor_to_keep_apart_is_named(tmp_path, capsys):
    write_horizons(tmp_path / "s")
    assert main(["s", "--results", str(tmp_path), "--within", "horizon"]) == 2
    said = capsys.readouterr().err
    assert "--within: 'horizon' does not vary here; valid: task, variant, epochs," in said


def test_csv_gives_an_averages_verdict_to_all_its_arms(tmp_path, capsys):
    write_horizons(tmp_path / "s")
    options = ["s", "--results", str(tmp_path), "--within", "task", "--compare", "fidelity"]
    assert main([*options, "--format", "csv"]) == 0
    printed = capsys.readouterr().out
    assert len(re.findall("corrected.*Corrected wins,[^,]*,learner.horizon", printed)) == 2


def test_a_sweep_that_averages_says_how_to_get_that(tmp_path, capsys):
    folder = write_horizons(tmp_path / "s")
    with changed_description(folder) as described:
        described["within"] = ["task"]
    said = "--within task averages over learner.horizon, seed by seed"
    assert main(["s", "--results", str(tmp_path)]) == 0
    assert said in " ".join(capsys.readouterr().out.split())
    assert main(["s", "--results", str(tmp_path), "--within", "task"]) == 0
    assert said not in " ".join(capsys.readouterr().out.split())


def test_arms_of_two_sweeps_are_compared_where_the_sweep_is_averaged_over(tmp_path):
    write_square(tmp_path / "first", {"reacher-easy": {"baseline": LOWER["baseline"]}})
    write_square(tmp_path / "second", {"reacher-easy": {"fullflow": CELLS["fullflow"]}})
    merged = merge_pair(tmp_path)
    (row,) = summarize_sweep(merged, "variant", within=["task"]).comparisons[0].rows
    assert (row.verdict.name, row.baseline_name) == ("Fullflow wins", "baseline")


def test_one_kind_is_compared_over_the_other_in_a_square_of_kinds(tmp_path, capsys):
    returns = {"baseline": 100.0, "flowpolicy": 200.0, "flowwm": 400.0, "fullflow": 600.0}
    rows = [
        make_row("reacher-easy", name, 100, seed, return_mean=value + seed)
        | {"config": json.dumps({k: {"kind": v} for k, v in zip(PARTS, KINDS[name], strict=True)})}
        for name, value in returns.items()
        for seed in (1, 2)
    ]
    write_trials(tmp_path / "s", rows, [*(f"{p}.kind" for p in PARTS), "task", "seed"], FLOW_OR_MLP)
    sweep = load_sweep(tmp_path / "s")
    (row,) = summarize_sweep(sweep, FLOW_OR_MLP, within=["task"]).comparisons[0].rows
    assert (row.baseline.mean, row.level.mean) == (151.5, 501.5)
    assert (row.verdict.name, row.differences) == ("Flow wins", ())
    main(["s", "--results", str(tmp_path), "--within", "task", "--format", "csv"])
    verdicts = [row["world_model.kind_verdict"] for row in read_csv(capsys.readouterr().out)]
    assert verdicts == ["", "", "Flow wins", "Flow wins"]
    (square,) = summarize_sweep(sweep, within=["policy.kind", "task"]).factorial.tasks
    assert square.problem == ""
    assert [effect.estimate for effect in square.effects] == [350.0, 150.0, 100.0]


def test_an_axis_that_sets_other_keys_in_each_sweep_is_compared_as_all_of_them(tmp_path):
    for name, key, levels in (("a", "horizon", (4, 8)), ("b", "discount", (0.9, 0.99))):
        rows = [
            make_row("reacher-easy", "baseline", 100, seed, return_mean=100.0 * place + seed)
            | {"trial": f"{name}-{level}-{seed}"}
            | {"config": json.dumps({"learner": {key: level}, "tuning": f"{name}{place}"})}
            for place, level in enumerate(levels, start=2)
            for seed in (1, 2)
        ]
        write_trials(tmp_path / name, rows, ["tuning", "task", "seed"], "tuning")
        with changed_description(tmp_path / name) as described:
            described["axes"] = {"tuning": [f"learner.{key}"], "task": ["task"], "seed": ["seed"]}
    for order in (("a", "b"), ("b", "a")):
        merged = merge_sweeps([load_sweep(tmp_path / name) for name in order])
        rows = summarize_sweep(merged, "tuning").comparisons[0].rows
        assert [row.differences for row in rows] == [(), ()]


def load_substeps(folder, *tasks):
    """Write a Gaussian policy and a flow policy of 2 and 4 substeps, and read them."""
    gaussian = ("baseline", {"kind": "gaussian"})
    flows = [("flowpolicy", {"kind": "flow", SUBSTEPS: steps}) for steps in (2, 4)]
    rows = [
        make_row(task, variant, 100, seed, return_mean=200.0 * place + seed)
        | {"trial": f"{task}-{variant}-{place}-{seed}", "config": json.dumps({"policy": policy})}
        for task in tasks
        for place, (variant, policy) in enumerate((gaussian, *flows))
        for seed in (1, 2)
    ]
    axes = ["variant", f"policy[flow].{SUBSTEPS}", "task", "seed"]
    write_trials(folder, rows, axes, "variant")
    return load_sweep(folder)


def test_a_baseline_to_which_a_factor_does_not_apply_is_that_of_the_same_task(tmp_path):
    sweep = load_substeps(tmp_path / "s", "reacher-easy", "walker-stand")
    rows = summarize_sweep(sweep).comparisons[0].rows
    compared = [(row.baseline.factors["task"], row.level.factors["task"]) for row in rows]
    tasks = ("reacher-easy", "walker-stand")
    assert sorted(compared) == [(task, task) for task in tasks for _ in range(2)]


def test_a_baseline_to_which_a_factor_does_not_apply_stands_beside_each_of_its_levels(tmp_path):
    sweep = load_substeps(tmp_path / "s", "reacher-easy")
    table = summarize_sweep(sweep).comparisons[0]
    assert [row.baseline_name for row in table.rows] == ["baseline", "baseline"]
    assert [row.level.mean for row in table.rows] == [201.5, 401.5]
    assert [row.differences for row in table.rows] == [(), ()]
    (row,) = summarize_sweep(sweep, within=["task"]).comparisons[0].rows
    assert (row.baseline.mean, row.level.mean, row.differences) == (1.5, 301.5, ())
    row = summarize_sweep(sweep, f"policy[flow].{SUBSTEPS}", within=["task"]).comparisons[0].rows[0]
    assert (row.baseline_name, row.level_name, row.differences) == ("2", "4", ())


@pytest.mark.parametrize(("order", "names"), [(1, ("mlp", "flow")), (-1, ("flow", "mlp"))])
def test_an_average_is_compared_with_a_level_to_which_its_factor_does_not_apply(
    tmp_path, order, names
):
    sweep = load_sweep(write_kinds(tmp_path / "s"))
    sweep = sweep._replace(trials=sweep.trials[::order])
    (row,) = summarize_sweep(sweep, FLOW_OR_MLP, within=["task"]).comparisons[0].rows
    assert (row.baseline_name, row.level_name, row.differences) == (*names, ())
    for trial in sweep.trials:
        trial.record["git_commit"] = trial.record["world_model"]
    (row,) = summarize_sweep(sweep, FLOW_OR_MLP, within=["task"]).comparisons[0].rows
    assert [str(d) for d in row.differences] == ["git_commit: {} against {}".format(*names)]


def test_a_square_whose_flow_settings_are_varied_apart_is_one_of_averages(tmp_path):
    settings = {
        "baseline": [(None, None)],
        "flowpolicy": [(None, 1), (None, 2)],
        "flowwm": [(1, None), (2, None)],
        "fullflow": [(1, 1), (1, 2), (2, 1), (2, 2)],
    }
    returns = {"baseline": 100.0, "flowpolicy": 200.0, "flowwm": 400.0, "fullflow": 600.0}
    rows = [
        make_row("reacher-easy", name, 100, seed, return_mean=returns[name] + seed)
        | {"trial": f"{name}-{steps}-{seed}"}
        | {"config": json.dumps(flow_parts(KINDS[name], steps))}
        for name, levels in settings.items()
        for steps in levels
        for seed in (1, 2)
    ]
    axes = ["variant", *(f"{part}[flow].{SUBSTEPS}" for part in PARTS), "task", "seed"]
    write_trials(tmp_path / "s", rows, axes, "variant")
    (square,) = summarize_sweep(load_sweep(tmp_path / "s"), within=["task"]).factorial.tasks
    assert (square.problem, square.differences) == ("", ())
    assert [effect.estimate for effect in square.effects] == [350.0, 150.0, 100.0]
    uneven = [row for row in rows if not row["trial"].startswith("fullflow-(2, 2)")]
    write_trials(tmp_path / "uneven", uneven, axes, "variant")
    (square,) = summarize_sweep(load_sweep(tmp_path / "uneven"), within=["task"]).factorial.tasks
    assert square.problem == "Not comparable"
    assert {difference.field for difference in square.differences} == {"averaged over"}


def flow_parts(kinds: tuple[str, str], steps: tuple[int | None, int | None]) -> dict:
    """Return a trial's parts; the steps of one that is no flow are None."""
    return {
        part: {"kind": kind} if number is None else {"kind": kind, SUBSTEPS: number}
        for part, kind, number in zip(PARTS, kinds, steps, strict=True)
    }


# Some tasks.


def test_only_the_tasks_named_are_summarised(tmp_path, capsys):
    write_square(tmp_path / "s", {"reacher-easy": CELLS, "walker-stand": CELLS})
    assert main(["s", "--results", str(tmp_path), "--tasks", "walker-stand"]) == 0
    printed = capsys.readouterr().out
    assert "6 of 6 trials evaluated" in printed
    assert "reacher-easy" not in printed


def test_a_task_that_the_sweep_lacks_is_named(tmp_path):
    folder = write_square(tmp_path / "s", {"reacher-easy": CELLS})
    with pytest.raises(ValueError, match="unknown task of sweep s 'reacher-hard'; did you mean"):
        keep_tasks(load_sweep(folder), ["reacher-hard"])


# What n seeds support, and files.


def test_what_the_seeds_support_follows_from_the_spread(tmp_path, capsys):
    # sd 10 in both arms, n = 3: error 8.2; a win takes 50, four times in five 50 + 0.84 * 8.2.
    write_square(tmp_path / "s", {"reacher-easy": CELLS})
    main(["s", "--results", str(tmp_path)])
    printed = " ".join(capsys.readouterr().out.split())
    assert "at this table's median sd of 10 a difference wins from 50 points on" in printed
    assert "a true one of 57 points would win about four times in five" in printed


def test_the_arm_that_all_are_compared_with_counts_once_in_the_tables_spread(tmp_path, capsys):
    cells = {name: (500.0, 510.0, 520.0) for name in KINDS} | {"baseline": (300.0, 600.0, 900.0)}
    write_square(tmp_path / "s", {"reacher-easy": cells})
    main(["s", "--results", str(tmp_path)])
    assert "median sd of 10 a" in " ".join(capsys.readouterr().out.split())  # of 300, 10, 10, 10


def test_what_rounds_to_nothing_is_shown_without_a_sign_of_less(tmp_path, capsys):
    lower = {name: [value - 0.02 for value in (0.0, 10.0, 20.0)] for name in KINDS}
    cells = {**lower, "baseline": (0.0, 10.0, 20.0)}
    write_square(tmp_path / "s", {"reacher-easy": cells, "walker-stand": cells})
    for within in ([], ["--within", "task"]):
        main(["s", "--results", str(tmp_path), *within])
        printed = capsys.readouterr().out
        assert "+0.0" in printed
        assert not re.search(r"(?<![\d.])-0(\.0+)?(?![\d.])", printed)


def test_arms_without_spread_count_in_what_the_seeds_support(tmp_path, capsys):
    same = {name: (100.0, 100.0, 100.0) for name in CELLS}
    some = {name: (mean - 40.0, mean, mean + 40.0) for name in CELLS for mean in (300.0,)}
    for name, tasks, sd in (
        ("few", {"reacher-easy": same, "walker-stand": some, "cheetah-run": some}, 40),
        ("most", {"reacher-easy": same, "walker-stand": same, "cheetah-run": some}, None),
    ):
        write_square(tmp_path / name, tasks)
        main([name, "--results", str(tmp_path)])
        printed = " ".join(capsys.readouterr().out.split())
        assert f"at this table's median sd of {sd} a" in printed or sd is None
        assert ("this table's median sd" in printed) is (sd is not None)


@pytest.mark.parametrize(
    ("form", "name"), [("table", "summary.txt"), ("tex", "summary.tex"), ("json", "summary.json")]
)
def test_out_writes_one_file_and_prints_nothing(tmp_path, capsys, form, name):
    write_square(tmp_path / "s", {"reacher-easy": CELLS})
    out = tmp_path / "new" / "folder"
    assert main(["s", "--results", str(tmp_path), "--format", form, "--out", str(out)]) == 0
    assert capsys.readouterr().out == ""
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).stat().st_size > 1000


def test_out_takes_the_figures_too(tmp_path):
    write_square(tmp_path / "s", {"reacher-easy": CELLS})
    assert main(["s", "--results", str(tmp_path), "--out", str(tmp_path / "o"), "--plot"]) == 0
    assert "learning_curves.png" in {path.name for path in (tmp_path / "o/figures").iterdir()}


# LaTeX.


def test_latex_escapes_what_means_something_to_it():
    assert escape("50% of a_b & {c} +- 2 -> $#") == (
        r"50\% of a\_b \& \{c\} $\pm$ 2 $\rightarrow$ \$\#"
    )
    assert escape("\\~^<>") == (
        r"\textbackslash{}\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}"
    )


def test_latex_is_balanced_and_every_row_has_its_cells(tmp_path, capsys):
    tasks = {"reacher-easy": CELLS, "walker-stand": LOWER}
    write_square(tmp_path / "a_b", tasks)
    assert main(["a_b", "--results", str(tmp_path), "--format", "tex", "--per-seed"]) == 0
    text = capsys.readouterr().out
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    opened, closed = (sorted(re.findall(rf"\\{word}{{(\w+)}}", text)) for word in ("begin", "end"))
    assert opened == closed != []
    for sides, body in re.findall(r"\{@\{\}([lr]+)@\{\}\}(.*?)\\end\{tabular\}", text, re.S):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(rows) > 1
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(sides)}
    assert r"\section*{a\_b}" in text


def test_level_of_the_group_is_the_baseline_before_a_variant_that_stands_outside(tmp_path):
    sweep = load_sweep(write_kinds(tmp_path / "kinds"))
    (compared, *_) = summarize_sweep(
        sweep, "policy.kind", within=[f"world_model[flow].{SUBSTEPS}"]
    ).comparisons
    pairs = [(row.baseline.kinds, row.level.kinds) for row in compared.rows]
    of_a_flow = (("flow", "gaussian"), ("flow", "flow"))
    assert pairs == [(("mlp", "gaussian"), ("mlp", "flow")), of_a_flow, of_a_flow]
    assert [row.verdict.name for row in compared.rows] == ["Flow wins"] * 3

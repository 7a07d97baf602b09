"""Long levels in the cells of tables: short labels, explained, that stay apart."""

import json
from pathlib import Path

import pytest

from analysis.arms import Arm, build_arms
from analysis.compare import compare_arms
from analysis.formats.grids import list_grids
from analysis.load import format_value, load_sweep
from analysis.report import summarize_sweep
from analysis.short_names import fold, shorten_levels
from analysis.summarize import main
from search_spaces import ERRORS, FLOW_TUNINGS
from tests.made_sweeps import SEEDS, changed_description, changed_trials, make_row, make_sweep
from tests.squares import write_trials

FIXED = "data.num_episodes=120, data.num_rounds=0"
ROUNDS = "data.num_episodes=120, data.num_rounds=14"


def shorten(factor: str, *levels):
    return shorten_levels([Arm({factor: level}, (), frozenset()) for level in levels])


def make_collections(folder: Path) -> Path:
    """Write a sweep whose axis sets two keys at once: the variants take the collections' names."""
    make_sweep(folder)
    with changed_description(folder) as described:
        described |= {"varies": ["collection", "epochs", "task", "seed"], "compare": "collection"}
        described["axes"] = {"collection": ["data.num_episodes", "data.num_rounds"]}
    levels = {"baseline": FIXED, "fullflow": ROUNDS}
    with changed_trials(folder, "collection") as rows:
        for row in rows:
            row |= {"collection": levels[row["variant"]], "variant": "baseline"}
    return folder


def test_settings_are_shortened_to_their_values_with_the_keys_in_the_legend():
    names = shorten("collection", FIXED, ROUNDS)
    assert [names.label("collection", level) for level in (FIXED, ROUNDS)] == ["120/0", "120/14"]
    assert names.legend == {"collection": "collection: data.num_episodes / data.num_rounds"}


def test_methodologies_have_words_of_their_own():
    names = shorten("methodology", "policy_finetuning", "joint_from_scratch")
    assert names.label("methodology", "policy_finetuning") == "frozen"
    assert names.legend["methodology"] == (
        "methodology: frozen = policy_finetuning; scratch = joint_from_scratch"
    )


def test_a_number_has_so_much_of_its_key_that_no_other_is_called_so():
    keys = ("data.seed", "learner.horizon", "world_model.num_substeps", "policy.num_substeps")
    names = shorten_levels([Arm(dict.fromkeys(keys, 2), (), frozenset())])
    assert [names.named(key, 2) for key in keys] == [
        "data.seed 2", "horizon 2", "world_model.num_substeps 2", "policy.num_substeps 2",
    ]  # fmt: skip


def test_what_is_on_or_off_is_named():
    assert shorten("learner.use_x", True, False).named("learner.use_x", False) == "use_x False"


def test_files_of_one_name_in_two_folders_are_told_apart_by_letters():
    names = shorten("world_model_from", "a/model.pt", "b/model.pt")
    assert names.label("world_model_from", "b/model.pt") == "B"
    assert names.legend["world_model_from"] == "world_model_from: A = a/model.pt; B = b/model.pt"


@pytest.mark.parametrize("levels", [FLOW_TUNINGS, ERRORS])
def test_the_shipped_levels_are_called_by_their_names(levels):
    names = shorten("tuning", *levels)
    assert [names.label("tuning", level) for level in levels] == [*levels]
    assert names.legend == {}


def test_a_very_long_name_alone_becomes_a_letter():
    long = "a_name_that_is_far_too_long_for_a_table"
    names = shorten("tuning", "fast", long)
    assert [names.label("tuning", level) for level in ("fast", long)] == ["fast", "B"]
    assert names.legend == {"tuning": f"tuning: B = {long}"}
    assert shorten("tuning", "B", long).label("tuning", "B") == "A"


def test_long_numbers_are_rounded_as_far_as_they_stay_apart():
    rates = (0.000849706659, 0.0021, 0.000849706671, None)
    names = shorten("learner.model_lr", *rates)
    labels = [names.label("learner.model_lr", level) for level in rates]
    assert labels == ["0.00084970666", "0.0021", "0.00084970667", "-"]
    assert [names.tick("learner.model_lr", level) for level in rates] == labels
    assert names.legend == {}


@pytest.mark.parametrize("level", [4, True, None, (64, 64), "none"])
def test_level_that_says_little_alone_is_told_with_its_factor(level):
    names = shorten("policy[flow].solver", level, "rk4")
    assert names.named("policy[flow].solver", "rk4") == "rk4"
    assert names.named("policy[flow].solver", level) == f"solver {format_value(level)}"


def test_a_winner_at_a_rounded_number_is_told_with_what_it_is_a_number_of(tmp_path, capsys):
    rows = [
        make_row("reacher-easy", "fullflow", 100, seed)
        | {"trial": f"{rate}-{seed}", "return_mean": returns + seed / 100.0}
        | {"config": json.dumps({"learner": {"model_lr": rate}})}
        for rate, returns in ((0.000849706659, 300.0), (0.00212399826, 600.0))
        for seed in SEEDS
    ]
    write_trials(tmp_path / "s", rows, ["learner.model_lr", "task", "seed"], "learner.model_lr")
    assert main(["s", "--results", str(tmp_path)]) == 0
    assert "model_lr 0.00212 wins" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("label", "folded"),
    [
        ("shuffled_critic_batches", "shuffled_\ncritic_\nbatches"),
        ("td_lambda", "td_lambda"),
        ("120/14", "120/14"),
        ("incomprehensible", "incomprehensible"),
        ("a b", "a b"),
        ("an incomprehensible one", "an\nincomprehensible\none"),
        ("_hidden__twice_", "_hidden__\ntwice_"),
        ("", ""),
    ],
)
def test_a_long_name_is_broken_behind_its_separators(label, folded):
    assert fold(label, 11) == folded


def test_more_long_levels_than_letters_keep_their_names():
    levels = [f"a_name_that_is_far_too_long_{number}" for number in range(27)]
    assert shorten("tuning", *levels).label("tuning", levels[26]) == levels[26]


def test_tasks_variants_and_short_levels_stay_as_they_are():
    assert (
        shorten("policy[flow].integrator", "rk4", None).label("policy[flow].integrator", None)
        == "-"
    )
    assert shorten("task", "cartpole-balance-sparse").legend == {}
    assert shorten("learner.horizon", 4, 16, None).legend == {}
    assert shorten("epochs", 15_000).label("epochs", 15_000) == "15,000"


def test_no_cell_of_a_long_axis_wraps_and_the_legend_stands_below(tmp_path, capsys):
    make_collections(tmp_path / "s")
    assert main(["s", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("reacher-easy")]
    assert [line.split()[1:3] for line in rows[:2]] == [["100", "120/0"], ["100", "120/14"]]
    assert "* collection: data.num_episodes / data.num_rounds" in printed
    assert "120/0 wins" in printed
    assert FIXED not in printed


def test_programs_get_the_whole_level(tmp_path, capsys):
    make_collections(tmp_path / "s")
    assert main(["s", "--results", str(tmp_path), "--format", "csv"]) == 0
    assert FIXED in capsys.readouterr().out


def test_what_all_arms_share_is_said_once_and_has_no_column(tmp_path):
    summary = summarize_sweep(load_sweep(make_collections(tmp_path / "s")))
    grids = list_grids(summary, per_seed=True)
    assert all("variant" not in grid.headers for grid in grids)
    assert all(len(row) == len(grid.headers) for grid in grids for row in grid.rows)


@pytest.mark.parametrize("factor", ["variant", "epochs"])
def test_the_winner_of_a_row_is_the_arm_with_the_larger_mean(tmp_path, factor):
    sweep = load_sweep(make_sweep(tmp_path / "s"))
    rows = compare_arms(sweep, build_arms(sweep), factor).rows
    winners = [row.winner for row in rows if row.winner is not None]
    assert winners
    assert all(
        row.winner.mean == max(row.level.mean, row.baseline.mean) for row in rows if row.winner
    )

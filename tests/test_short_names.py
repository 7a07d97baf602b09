"""Long levels in the cells of tables: short labels, explained, that stay apart."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from analysis.arms import Arm
from analysis.compare import compare_arms
from analysis.grids import list_grids
from analysis.load import load_sweep
from analysis.report import summarize_sweep
from analysis.short_names import shorten_levels
from analysis.summarize import main
from pwmray.results import TRIALS, read_table, write_rows
from tests.test_analysis import make_sweep

FIXED = "data.num_episodes=120, data.num_rounds=0"
ROUNDS = "data.num_episodes=120, data.num_rounds=14"


def shorten(factor: str, *levels):
    return shorten_levels([Arm({factor: level}, (), frozenset()) for level in levels])


def make_collections(folder: Path) -> Path:
    """Write a sweep whose axis sets two keys at once: the variants take the collections' names."""
    make_sweep(folder)
    described = json.loads((folder / "sweep.json").read_text())
    described |= {"varies": ["collection", "epochs", "task", "seed"], "compare": "collection"}
    described["axes"] = {"collection": ["data.num_episodes", "data.num_rounds"]}
    (folder / "sweep.json").write_text(json.dumps(described))
    rows = read_table(folder / "trials.arrow").to_pylist()
    levels = {"baseline": FIXED, "fullflow": ROUNDS}
    rows = [row | {"collection": levels[row["variant"]], "variant": "baseline"} for row in rows]
    write_rows(folder / "trials.arrow", rows, TRIALS.append(pa.field("collection", pa.string())))
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


def test_files_of_one_name_in_two_folders_are_told_apart_by_letters():
    names = shorten("world_model_from", "a/model.pt", "b/model.pt")
    assert names.label("world_model_from", "b/model.pt") == "B"
    assert names.legend["world_model_from"] == "world_model_from: A = a/model.pt; B = b/model.pt"


def test_tasks_variants_and_short_levels_stay_as_they_are():
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
    rows = compare_arms(load_sweep(make_sweep(tmp_path / "s")), factor).rows
    winners = [row.winner for row in rows if row.winner is not None]
    assert winners
    assert all(
        row.winner.mean == max(row.level.mean, row.baseline.mean) for row in rows if row.winner
    )

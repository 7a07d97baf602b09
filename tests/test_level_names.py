"""Levels with names: a trial is called by the level that it is built from, or the sweep refuses."""

import dataclasses
import re

import pytest

from pwmray.levels import levels_of
from pwmray.sweep import Sweep
from pwmray.tables import Tables
from tests.made_sweeps import changed_description
from tests.made_world_models import save
from tests.planned_sweeps import leave_results

BARE = {"bare": {"instead": {}, "set": {}}}  # no widths, so that a size acts
BASELINE = {"variant": "baseline"}
PUBLISHED = {"fidelity": "published", "fidelity.td_lambda": True}
PRETRAINED_TWICE = ("pretrained", "pretrained:1")
LAPTOP = {"variant": "fullflow", "size": "laptop"}


def make_sweep(levels, hold=None, scales=BARE, **axes):
    return Sweep(
        name="few",
        vary={"arm": levels, **axes, "task": ["pendulum-spin"], "seed": [1]},
        hold={"epochs": 4, **(hold or {})},
        compare="arm",
        within=["task"],
        scales=scales,
    )


def names_of(sweep, scale="bare"):
    named = sweep.named_levels(scale)
    return [levels_of(config, sweep.axes, named)["arm"] for config in sweep.cells(scale)]


@pytest.mark.parametrize(
    "levels",
    [
        {
            "plain": BASELINE,
            "published_with_lambda": {**BASELINE, **PUBLISHED},
            "wide": {**BASELINE, "size": 1, "policy.units": [64, 64]},
        },
        {"flow": LAPTOP, "flow_wide": {**LAPTOP, "size": 5, "world_model.units": [600, 600]}},
        {"flow": LAPTOP, "flow_wide": {**LAPTOP, "policy[flow].units": [64, 64]}},
        {"short": {"learner.horizon": 4}, "short_small": {"learner.horizon": 4, "size": "1"}},
        {"spelled": {"world_model.kind": "mlp"}, "short": {**BASELINE, "learner.horizon": 4}},
        {"default": {}, "short": {"learner.horizon": 4}},
        {"default": {}, "c": PUBLISHED},
        {"small": {"size": 1}, "default": {}},
    ],
)
def test_trial_has_the_name_of_the_level_that_it_is_built_from(levels):
    assert names_of(make_sweep(levels)) == list(levels)


@pytest.mark.parametrize(
    "held",
    [
        {"policy.units": [64, 64]},
        {"policy[gaussian].units": [64, 64], "world_model.task_dim": 8},
        {"fidelity.td_lambda": False},
    ],
)
def test_what_is_held_wins_over_a_levels_size_and_fidelity_and_takes_no_name(held):
    levels = {"s": {"size": 1, "fidelity": "corrected"}, "m": {"size": 5, "fidelity": "published"}}
    assert names_of(make_sweep(levels, held)) == ["s", "m"]


def test_another_axis_wins_over_a_levels_size_and_takes_no_name():
    sweep = make_sweep({"s": {"size": 1}, "m": {"size": 5}}, **{"policy.units": [[8], [16]]})
    assert names_of(sweep) == ["s", "m"] * 2


@pytest.mark.parametrize("other", [{}, {"world_model_from": "scratch"}])
def test_level_that_names_a_file_by_a_relative_path_is_told(other, tmp_path, monkeypatch):
    save(tmp_path / "a.ckpt")
    monkeypatch.chdir(tmp_path)
    pretrained = {**BASELINE, "world_model_from": "a.ckpt"}
    sweep = make_sweep({"joint": {**BASELINE, **other}, "pretrained": pretrained})
    named = sweep.named_levels("bare")
    configs = sweep.cells("bare")
    monkeypatch.chdir("/")
    assert [levels_of(c, sweep.axes, named)["arm"] for c in configs] == ["joint", "pretrained"]


def test_level_that_says_nothing_of_a_kind_is_not_its_trials():
    levels = {f"{n}_calls": {"policy[flow].num_substeps": n} for n in (1, 2)}
    found = names_of(make_sweep(levels, variant=["baseline", "fullflow"]))
    assert found == [None, "1_calls", "2_calls"]


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        (
            {"usual": {"learner.horizon": 16}, "low": {"learner.discount": 0.9}},
            "pendulum-spin-baseline-4-seed1 of level 'low' would be shown as 'usual'",
        ),
        (
            {"a": {"learner.horizon": 3}, "b": {"learner.horizon": 3}, "c": {"learner.horizon": 4}},
            "no trial would be shown as level 'b'",
        ),
    ],
)
def test_level_that_another_hides_is_refused(levels, said):
    with pytest.raises(ValueError, match=re.escape(f"sweep few: axis 'arm': {said}")):
        make_sweep(levels).cells("bare")


def test_level_whose_setting_another_axis_sets_is_refused():
    levels = {"a": {"learner.horizon": 3}, "b": {"learner.discount": 0.9}}
    sweep = make_sweep(levels, **{"learner.horizon": [3, 4]})
    sweep = Sweep(**{**vars(sweep), "vary": dict(reversed(sweep.vary.items()))})
    with pytest.raises(ValueError, match="level 'a' lacks some of its settings: another axis"):
        sweep.cells("bare")


@pytest.mark.parametrize(
    ("axis", "levels", "said"),
    [
        (
            "variant",
            [{"variant": "fullflow", "policy.num_substeps": n} for n in (1, 2)],
            "policy.n",
        ),
        ("seed", [{"seed": 1, "data.seed": n} for n in (0, 1)], "data.seed"),
        (
            "methodology",
            [{"world_model_from": word, "finetune_wm": False} for word in PRETRAINED_TWICE],
            "world_model_from",
        ),
    ],
)
def test_levels_that_no_table_would_tell_apart_are_refused(axis, levels, said):
    sweep = make_sweep({"a": {"learner.horizon": 4}, "b": {"learner.horizon": 5}})
    sweep = dataclasses.replace(sweep, vary={**sweep.vary, axis: levels})
    with pytest.raises(ValueError, match=f"shown as pendulum-spin-.*: no axis tells their {said}"):
        sweep.cells("bare")


def test_sweeps_of_an_earlier_version_name_levels_as_their_file_spells_them(tmp_path):
    levels = {"plain": BASELINE, "published": {**BASELINE, **PUBLISHED}}
    folder = leave_results(make_sweep(levels), tmp_path)
    with changed_description(folder) as described:
        described["named_levels"] = {"arm": levels}
    assert Tables(folder).join()["trials"]["arm"].to_pylist() == ["plain", "published"]

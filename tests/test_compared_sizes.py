"""A plan says which comparisons the summary will refuse for the sizes of what is compared."""

import dataclasses
import json

import pytest

from pwmray import plan
from pwmray.build import build_learner
from pwmray.config import TrialConfig
from pwmray.grid import axes_of
from pwmray.models import WORLD_MODELS
from pwmray.models.checkpoints import describe_world_model, save_world_model
from pwmray.parity import describe_unequal
from pwmray.plan_text import as_json, as_table
from pwmray.sweep import Sweep

HELD = {"task": "pendulum-spin", "epochs": 2, "size": "laptop"}
WORLD_MODEL = WORLD_MODELS["mlp"]


def make_plan(results, vary, compare, within=(), **held):
    set_by_axes = {key for keys in axes_of(vary, {}).values() for key in keys}
    hold = {key: value for key, value in {**HELD, **held}.items() if key not in set_by_axes}
    scales = {"tiny": {"instead": {}, "set": {}}}
    sweep = Sweep("mine", {**vary, "seed": [1, 2]}, compare, within, scales, hold)
    return plan.make(sweep, "tiny", sweep.cells("tiny"), results)


def register(monkeypatch, units):
    config = dataclasses.make_dataclass("Mine", [], bases=(WORLD_MODEL.Config,), frozen=True)
    config.by_size = {"laptop": {"units": units}}
    monkeypatch.setitem(WORLD_MODELS, "mine", type("Mine", (WORLD_MODEL,), {"Config": config}))


@pytest.mark.parametrize(
    ("compare", "levels", "names"),
    [
        ("world_model.kind", ["mlp", "flow", "mine"], ("mlp", "mine")),
        ("variant", ["baseline", "fullflow", "mine+gaussian"], ("baseline", "mine+gaussian")),
    ],
)
def test_plan_names_kinds_of_unlike_sizes(compare, levels, names, monkeypatch, tmp_path):
    register(monkeypatch, (64, 64))
    made = make_plan(tmp_path, {compare: levels}, compare)
    (line,) = describe_unequal(made)
    assert f"than 2%: {names[0]} 177,235, {names[1]} 130,323; other" in line
    assert line in as_table(made)
    assert json.loads(as_json(made))["unlike_sizes"] == [line]


def test_plan_names_what_the_summary_compares_across_an_axis_that_applies_to_one(
    monkeypatch, tmp_path
):
    register(monkeypatch, (64, 64))
    vary = {"variant": ["mine+gaussian", "flowwm"], "world_model[flow].num_substeps": [1, 2]}
    (line,) = describe_unequal(make_plan(tmp_path, vary, "variant"))
    assert "than 2%: mine+gaussian 130,323, flowwm 177,235;" in line


@pytest.mark.parametrize(
    ("compare", "levels", "names"),
    [
        ("variant", ["mine+gaussian", "baseline", "fullflow"], ("baseline", "mine+gaussian")),
        ("world_model.kind", ["mine", "flow", "mlp"], ("mlp", "mine")),
        (
            "arm",
            {"other": {"variant": "mine+gaussian"}, "baseline": {"variant": "fullflow"}},
            ("baseline", "other"),
        ),
        (
            "arm",
            {
                "short": {"variant": "baseline", "epochs": 2},
                "long": {"variant": "mine+gaussian", "epochs": 4},
            },
            ("short", "long"),
        ),
    ],
)
def test_plan_compares_with_the_baseline_wherever_it_stands(
    compare, levels, names, monkeypatch, tmp_path
):
    register(monkeypatch, (64, 64))
    (line,) = describe_unequal(make_plan(tmp_path, {compare: levels}, compare))
    shown = line.partition("than 2%: ")[2].partition(";")[0]
    assert tuple(part.split()[0] for part in shown.split(", ")) == names


def test_frozen_world_model_does_not_hide_that_policies_differ(tmp_path):
    path, task = tmp_path / "a.ckpt", HELD["task"]
    model = build_learner(TrialConfig.from_flat({**HELD, "seed": 1})).world_model
    save_world_model(path, describe_world_model(model, "corrected", "few", (task,), 1, "d1"))
    frozen = {"world_model_from": str(path), "finetune_wm": False}
    held = {**frozen, "policy[flow].units": (235, 128)}
    (line,) = describe_unequal(
        make_plan(tmp_path, {"policy.kind": ["gaussian", "flow"]}, "policy.kind", **held)
    )
    assert "than 2%: gaussian 177,235, flow 174,785;" in line  # 3 % of the 85,134 trained


def test_plan_says_nothing_of_kinds_that_are_alike(monkeypatch, tmp_path):
    register(monkeypatch, (128, 127))
    made = make_plan(tmp_path, {"world_model.kind": ["mlp", "mine"]}, "world_model.kind")
    assert describe_unequal(made) == []


@pytest.mark.parametrize(
    ("vary", "compare"),
    [
        ({"size": ["laptop", "1"]}, "size"),
        ({"policy.units": [(256, 128), (64,)]}, "policy.units"),
        ({"world_model.kind": ["mlp", "mine"], "epochs": [2, 4]}, "epochs"),
        ({"world_model.kind": ["mlp", "flow"], "size": ["laptop", "1"]}, "world_model.kind"),
        ({"kind": {"a": {"variant": "baseline"}, "b": {"variant": "fullflow"}}}, "kind"),
    ],
)
def test_plan_says_nothing_where_sizes_are_not_to_be_alike(vary, compare, monkeypatch, tmp_path):
    register(monkeypatch, (64, 64))
    assert describe_unequal(make_plan(tmp_path, vary, compare)) == []

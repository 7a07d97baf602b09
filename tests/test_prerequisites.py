"""The world models that a sweep's trials start from: missing, made, given, matched."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pwmray import claim, plan, prerequisites
from pwmray.build import build_learner
from pwmray.config import PRETRAINED, TrialConfig
from pwmray.models.checkpoints import describe_world_model, load_world_model, save_world_model
from pwmray.pretrain_command import run_pretrainings
from pwmray.pretrained import check_matched
from pwmray.pretraining_folder import CLAIM_FILE, RESUME_FILE
from pwmray.results import read_table
from pwmray.tracking import Mode
from tests.test_sweep import run
from tests.tiny import SETTINGS
from tests.tiny import sweep as scratch_sweep
from tests.tiny_pretrained import TASK, sweep

HERE = Path(__file__).parent


def save(path, kind="mlp", iterations=200, data="d1", tasks=(TASK,), **settings):
    variant = {"mlp": "baseline", "flow": "flowwm"}[kind]
    flat = {**SETTINGS, "task": TASK, "seed": 3, "epochs": 1, "variant": variant, **settings}
    model = build_learner(TrialConfig.from_flat(flat)).world_model
    described = describe_world_model(model, "corrected", "few", tasks, iterations, data)
    save_world_model(path, described)
    return path


def make(wanted, results, data):
    return run_pretrainings(wanted, results, data, "python x.py", "tiny_pretrain", Mode.OFF)


def find(results, given=None):
    return prerequisites.find(sweep, "tiny", sweep.cells("tiny"), results, given)


def plan_as_json(capsys, results, *options):
    code, out, errors = run(
        capsys, "--plan", "--format", "json", "--results", results, *options, of=sweep
    )
    assert (code, errors) == (0, [])
    return json.loads(out)


# Missing.


def test_plan_names_what_is_missing_and_still_prints(tmp_path, capsys):
    code, out, errors = run(capsys, "--plan", "--results", tmp_path, of=sweep)
    assert (code, errors) == (0, [])
    assert "2 trials (2 waits)" in out
    found = re.findall(r"missing: (\w+) world model, corrected, 2 iterations, for 1 trials", out)
    assert found == ["mlp", "flow"]
    command = f"make it with: python sweeps/phase8_pretrain.py --scale tiny --results {tmp_path}"
    assert out.count(command) == 2
    assert list(tmp_path.iterdir()) == []


def test_plan_as_json_has_the_prerequisites_and_no_fingerprint_that_will_change(tmp_path, capsys):
    content = plan_as_json(capsys, tmp_path)
    assert [trial["fingerprint"] for trial in content["trials"]] == [None, None]
    assert [(p["state"], p["trials"]) for p in content["prerequisites"]] == [("missing", 1)] * 2
    assert content["minutes_to_run"] > 0


def test_run_without_them_is_refused_with_the_command_that_makes_them(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)  # what gets that far has failed the test
    code, out, errors = run(capsys, of=sweep)
    assert (code, out, len(errors)) == (2, "", 1)
    assert errors[0].startswith("error: no pretrained mlp world model, corrected at ")
    assert "make it with: python sweeps/phase8_pretrain.py --scale tiny (or add" in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_limit_leaves_out_what_only_later_trials_need(tmp_path, capsys):
    content = plan_as_json(capsys, tmp_path, "--limit", "1")
    assert [p["what"] for p in content["prerequisites"]] == ["mlp world model, corrected"]


def test_task_that_the_pretraining_does_not_see_is_refused(tmp_path, capsys):
    code, _, errors = run(
        capsys, "--plan", "--tasks", "cheetah-run", "--results", tmp_path, of=sweep
    )
    assert (code, len(errors)) == (2, 1)
    assert "needs a world model pretrained on cheetah-run" in errors[0]
    assert f"sees {TASK}. Make one with: python sweeps/phase8_pretrain.py" in errors[0]


def test_state_of_a_pretraining_is_told(tmp_path):
    wanted, other = find(tmp_path).prerequisites
    assert (wanted.state, other.state) == ("missing", "missing")
    with claim.acquire(wanted.folder / CLAIM_FILE):
        assert wanted.state == "running"
    (wanted.folder / RESUME_FILE).touch()
    assert (wanted.state, other.state) == ("resumes", "missing")


# Made.


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a results folder with the sweep's pair of world models."""
    folder = tmp_path_factory.mktemp("made")
    wanted = [needed.pretraining for needed in find(folder / "results").prerequisites]
    assert make(wanted, folder / "results", folder / "data") == 0
    return folder / "results"


def test_pair_that_was_made_is_found_by_the_fingerprint_of_its_pretraining(made):
    found = find(made)
    assert [needed.state for needed in found.prerequisites] == ["done", "done"]
    files = [load_world_model(Path(config.world_model_from)) for config in found.configs]
    assert [checkpoint.config.kind for checkpoint in files] == ["mlp", "flow"]
    check_matched(found.configs)
    planned = plan.make(sweep, "tiny", found.configs, made, found.prerequisites)
    assert planned.is_ready
    assert planned.counts() == {"new": 2}


def test_pretrainings_that_are_done_are_not_run_again(made, tmp_path, capsys):
    wanted = [needed.pretraining for needed in find(made).prerequisites]
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.ckpt")}
    assert make(wanted, made, tmp_path / "no data is made") == 0
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*.ckpt")} == before
    assert list(tmp_path.iterdir()) == []


def test_world_model_of_another_scale_or_size_does_not_count(made):
    other = dataclasses.replace(sweep, hold={**sweep.hold, "world_model.latent_dim": 8})
    cells = other.cells("tiny")
    found = prerequisites.find(other, "tiny", cells, made)
    assert {needed.state for needed in found.prerequisites} == {"missing"}
    longer = {**sweep.scales["tiny"], "pretrain": {**sweep.scales["tiny"]["pretrain"]}}
    longer["pretrain"]["iterations"] = 3
    other = dataclasses.replace(sweep, scales={"tiny": longer})
    found = prerequisites.find(other, "tiny", other.cells("tiny"), made)
    assert {needed.state for needed in found.prerequisites} == {"missing"}


# Given.


def test_file_stands_in_for_the_kind_that_it_holds(tmp_path, capsys):
    path = save(tmp_path / "model.ckpt")
    content = plan_as_json(capsys, tmp_path / "results", "--world-model", path, "--allow-unmatched")
    assert [trial["state"] for trial in content["trials"]] == ["new", "waits"]
    assert [p["what"] for p in content["prerequisites"]] == ["flow world model, corrected"]


def test_files_stand_in_by_kind(tmp_path, capsys):
    mlp, flow = save(tmp_path / "a.ckpt"), save(tmp_path / "b.ckpt", "flow")
    content = plan_as_json(capsys, tmp_path, "--world-model", f"mlp={mlp},flow={flow}")
    assert [trial["state"] for trial in content["trials"]] == ["new", "new"]
    assert content["prerequisites"] == []
    found = find(tmp_path, {"mlp": mlp, "flow": flow}).configs
    assert [config.world_model_from for config in found] == [str(mlp), str(flow)]
    assert [trial["fingerprint"] for trial in content["trials"]] == [c.fingerprint for c in found]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("nowhere.ckpt", "--world-model is 'nowhere.ckpt', but"),
        ("mpl=mlp.ckpt", "unknown kind of world model 'mpl'; did you mean 'mlp'"),
        ("mlp=mlp.ckpt,mlp=mlp.ckpt", "gives a mlp world model twice"),
        ("mlp=mlp.ckpt,flow.ckpt", "valid: FILE, or mlp=FILE,flow=FILE"),
        ("mlp=mpl.ckpt", "mpl.ckpt is not a file; did you mean 'mlp.ckpt'?; valid: a file"),
        ("flow=mlp.ckpt", "does not fit"),
        ("readme.md", "readme.md is not a world model of ours"),
    ],
)
def test_file_that_cannot_stand_in_is_one_line(option, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "mlp.ckpt")
    (tmp_path / "readme.md").write_text("not a world model\n")
    options = ["--plan", "--world-model", option, "--allow-unmatched"]
    code, out, errors = run(capsys, *options, of=sweep)
    assert (code, out, len(errors)) == (2, "", 1)
    assert said in errors[0]


def test_file_that_no_trial_would_start_from_is_refused(tmp_path, capsys):
    path = save(tmp_path / "flow.ckpt", "flow")
    options = ["--plan", "--world-model", path, "--results", tmp_path]
    code, _, errors = run(capsys, *options, of=scratch_sweep)
    assert (code, len(errors)) == (2, 1)
    assert "no trial of tiny starts from a pretrained one of that kind" in errors[0]
    code, _, errors = run(capsys, *options, "--limit", "1", of=sweep)
    assert (code, len(errors)) == (2, 1)
    assert "of that kind; they take: mlp" in errors[0]


# Matched.


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"iterations": 100}, "iterations is 200 in .*a.ckpt and 100 in .*b.ckpt"),
        ({"iterations": None}, "iterations is 200 in .*a.ckpt and unknown in .*b.ckpt"),
        ({"data": "d2"}, "data is d1 in .*a.ckpt and d2 in"),
        ({"data": ""}, "data is d1 in .*a.ckpt and unknown in"),
        ({"tasks": (TASK, "cheetah-run")}, "tasks is pendulum-spin in .* and pendulum-spin, chee"),
    ],
)
def test_pair_that_was_trained_unlike_is_refused_unless_told(change, said, tmp_path, capsys):
    mlp, flow = save(tmp_path / "a.ckpt"), save(tmp_path / "b.ckpt", "flow", **change)
    options = ["--results", tmp_path, "--world-model", f"mlp={mlp},flow={flow}", "--plan"]
    code, _, errors = run(capsys, *options, of=sweep)
    assert (code, len(errors)) == (2, 1)
    assert re.search(rf"do not match: {said}.* add --allow-unmatched", errors[0])
    code, _, errors = run(capsys, *options, "--allow-unmatched", of=sweep)
    assert (code, errors) == (0, [])


def test_pair_of_unlike_size_is_refused(tmp_path):
    narrow = save(tmp_path / "a.ckpt")
    wide = save(tmp_path / "b.ckpt", "flow", **{"world_model.units": (64,)})
    mlp, flow = (
        dataclasses.replace(cell, world_model_from=str(path))
        for cell, path in zip(sweep.cells("tiny"), (narrow, wide), strict=True)
    )
    wider = dataclasses.replace(flow.world_model, units=(64,))
    with pytest.raises(ValueError, match=r"a.ckpt has \d+ parameters and .*b.ckpt \d+"):
        check_matched([mlp, dataclasses.replace(flow, world_model=wider)])


def test_best_of_a_run_counts_with_the_iterations_of_its_whole_run(tmp_path):
    mlp, flow = tmp_path / "mlp", tmp_path / "flow"
    for folder, kind, best in ((mlp, "mlp", 150), (flow, "flow", 200)):
        folder.mkdir()
        save(folder / "best.ckpt", kind, iterations=best)
        save(folder / "last.ckpt", kind, iterations=200)
    check_matched(find(tmp_path, {"mlp": mlp / "best.ckpt", "flow": flow / "best.ckpt"}).configs)


def test_world_models_of_one_kind_are_not_matched(tmp_path):
    one, other = save(tmp_path / "a.ckpt"), save(tmp_path / "b.ckpt", iterations=100)
    cell = sweep.cells("tiny")[0]
    check_matched([dataclasses.replace(cell, world_model_from=str(p)) for p in (one, other)])


def test_trial_that_awaits_its_world_model_is_told_from_others():
    cells = sweep.cells("tiny", {"seed": [1, 2]})
    assert {cell.world_model_from for cell in cells} == {PRETRAINED}
    assert len({cell.fingerprint for cell in cells}) == 4


def run_script(command, folder):
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_pretrain_makes_the_pair_first_and_then_runs_the_trials(tmp_path):
    command = [sys.executable, str(HERE / "tiny_pretrained.py"), "--scale", "tiny", "--pretrain"]
    first = run_script(command, tmp_path)
    assert first.returncode == 0, first.stderr
    table = read_table(tmp_path / "results" / "tiny_pretrained" / "trials.arrow")
    assert table["status"].to_pylist() == ["EVALUATED", "EVALUATED"]
    assert set(table["methodology"].to_pylist()) == {"policy_finetuning"}
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.ckpt")}
    again = run_script(command, tmp_path)
    assert "2 of 2 trials done" in again.stdout
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.ckpt")} == before

"""The world models that a sweep's trials start from: missing, made, given, matched."""

import dataclasses
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cluster import work
from pwmray import learner_code, plan, registry, tables
from pwmray.build import count_parameters
from pwmray.config import PRETRAINED
from pwmray.data.collected import collected_path
from pwmray.data.store import write_store
from pwmray.driver import launch
from pwmray.models.checkpoints import load_world_model
from pwmray.outdated import find_outdated
from pwmray.pretrain_command import Pretraining, run_pretrainings
from pwmray.pretraining import prerequisites, pretrained
from pwmray.pretraining.folder import (
    CLAIM_FILE,
    LAST_FILE,
    PRETRAINED_FOLDER,
    RESUME_FILE,
    describe,
    read_about,
)
from pwmray.pretraining.pretrained import check_matched, world_model_training
from pwmray.registry import Status, claim
from pwmray.results import TRAINED_WITH, TRIALS, read_table, write_rows
from pwmray.sweep_options import sweep_parser
from pwmray.tracking.recording import Mode
from tests.made_world_models import find, save
from tests.planned_sweeps import run
from tests.tiny import sweep as scratch_sweep
from tests.tiny_pretrained import TASK, sweep

HERE = Path(__file__).parent
tiny_pretraining = Pretraining(
    name="tiny_pretrain", vary={"world_model.kind": ["mlp", "flow"]}, scales=sweep.scales
)


def make(wanted, results, data):
    return run_pretrainings(wanted, results, data, "python x.py", "tiny_pretrain", Mode.OFF)


def plan_of(sweep, results, *options):
    arguments = ["--results", str(results), "--data", str(results), *options]
    return sweep.plan(sweep_parser(sweep.name, sweep.scales).parse_args(arguments))


def plan_as_json(capsys, results, *options):
    code, out, errors = run(
        capsys, "--plan", "--format", "json", "--results", results, *options, of=sweep
    )
    assert (code, errors) == (0, [])
    return json.loads(out)


# Missing.


def test_plan_names_what_is_missing_and_still_prints(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(HERE.parent)  # from there the file is sweeps/phase8_pretrain.py
    code, out, errors = run(capsys, "--plan", "--results", tmp_path, of=sweep)
    assert (code, errors) == (0, [])
    assert "2 trials (2 waits)" in out
    found = re.findall(r"missing: (\w+) world model, corrected, 2 iterations, for 1 trial,", out)
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
    script = Path(__file__).parents[1] / "sweeps" / "phase8_pretrain.py"
    assert f"make it with: python {shlex.quote(str(script))} --scale tiny (or add" in errors[0]
    assert list(tmp_path.iterdir()) == []


MLP_ALONE = """
from pwmray.pretrain_command import Pretraining
from tests.tiny_pretrained import sweep

pretraining = Pretraining("mine", {"world_model.kind": ["mlp"]}, sweep.scales)
"""


def test_file_is_named_for_the_world_models_that_it_makes_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps/mine.py").write_text(MLP_ALONE)
    mine = dataclasses.replace(sweep, pretraining="mine")

    _, out, _ = run(capsys, "--plan", of=mine)
    _, _, errors = run(capsys, of=mine)

    assert re.findall(r"  make it .*", out) == [
        "  make it with: python sweeps/mine.py --scale tiny, or add --pretrain",
        "  make it by adding --pretrain to this command",
    ]
    assert errors[0].endswith("; add --pretrain to this command, which makes it")


@pytest.mark.parametrize(
    "end", ["pretraining.main()\n", "print('hello')\nraise SystemExit(3)\n", "1 / 0\n"]
)
def test_plan_runs_nothing_that_the_pretrainings_file_does(end, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps/mine.py").write_text(MLP_ALONE + end)
    mine = dataclasses.replace(sweep, pretraining="mine")

    code, out, _ = run(capsys, "--plan", "--limit", 2, of=mine)

    assert code == 0
    assert "hello" not in out
    assert out.count("make it with: python sweeps/mine.py --scale tiny") == 2


def test_file_that_is_not_there_is_not_named(tmp_path, capsys):
    none = dataclasses.replace(sweep, pretraining="nowhere")
    _, out, _ = run(capsys, "--plan", "--results", tmp_path, of=none)
    assert "nowhere" not in out
    assert out.count("make it by adding --pretrain to this command") == 2


def test_command_that_makes_them_has_the_sweeps_folders(tmp_path, capsys):
    places = ["--results", tmp_path / "r", "--data", tmp_path / "d d"]
    _, _, errors = run(capsys, *places, of=sweep)
    wanted = f"--scale tiny --results {tmp_path}/r --data '{tmp_path}/d d' (or add"
    assert wanted in errors[0]


def test_each_training_seed_may_have_a_pretrained_pair_of_its_own(tmp_path):
    of_a_seed = [
        {"seed": 42, "world_model_from": PRETRAINED},
        {"seed": 123, "world_model_from": f"{PRETRAINED}:1"},
    ]
    hold = {"epochs": 2, "finetune_wm": False}
    paired = dataclasses.replace(sweep, vary={**sweep.vary, "seed": of_a_seed}, hold=hold)
    cells = paired.cells("tiny")
    wanted = prerequisites.find(paired, "tiny", cells, tmp_path).prerequisites
    assert [(w.pretraining.world_model.kind, w.pretraining.seed) for w in wanted] == [
        ("mlp", 0),
        ("flow", 0),
        ("mlp", 1),
        ("flow", 1),
    ]
    usual = find(tmp_path).prerequisites[0]
    assert wanted[0].folder == usual.folder
    assert plan.make(paired, "tiny", cells, tmp_path, wanted).counts() == {"waits": 4}


FIRST, SECOND = {"world_model_from": PRETRAINED}, {"world_model_from": f"{PRETRAINED}:1"}


@pytest.mark.parametrize(
    ("levels", "called"),
    [
        ({"first": FIRST, "second": SECOND}, ["first", "second"]),
        ([FIRST, SECOND], [PRETRAINED, f"{PRETRAINED}:1"]),
    ],
)
def test_levels_that_name_several_pretrainings_are_told_from_each_other(levels, called, tmp_path):
    vary = {**sweep.vary, "pretraining": levels}
    paired = dataclasses.replace(sweep, vary=vary, hold={"epochs": 2, "finetune_wm": False})
    expected = [called[0], called[0], called[1], called[1]]
    awaiting = plan_of(paired, tmp_path)
    assert [trial.levels["pretraining"] for trial in awaiting.trials] == expected
    for number, wanted in enumerate(awaiting.prerequisites):
        for path in (wanted.path, wanted.folder / LAST_FILE):
            save(path, wanted.pretraining.world_model.kind, data=f"d{number // 2}")
    made = plan_of(paired, tmp_path)
    assert [trial.levels["pretraining"] for trial in made.trials] == expected
    for trial in made.trials:
        place = registry.trial_folder(tmp_path, trial.config.fingerprint)
        registry.record(place, Status.PENDING, config=trial.config.to_dict())
        registry.record(place, Status.QUEUED)
        registry.record(place, Status.RUNNING, world_model_id="mlp-200-0123abcd")
    tables.open_sweep(made, "python x.py")
    few = plan_of(paired, tmp_path, "--limit", "1")  # the others stay in the sweep, as they are
    joined = tables.Tables(tables.open_sweep(few, "python x.py")).join()["trials"]
    assert joined["pretraining"].to_pylist() == expected


def test_limit_leaves_out_what_only_later_trials_need(tmp_path, capsys):
    content = plan_as_json(capsys, tmp_path, "--limit", "1")
    assert [p["what"] for p in content["prerequisites"]] == ["mlp world model, corrected"]


def test_one_that_another_process_makes_is_said_to_be(tmp_path, capsys):
    mlp, flow = find(tmp_path).prerequisites
    being_made = f" yet (being made by pid {os.getpid()} on {socket.gethostname()})"
    with claim.acquire(mlp.folder / CLAIM_FILE):
        code, _, errors = run(capsys, "--results", tmp_path, of=sweep)
        assert (code, len(errors)) == (2, 1)
        assert f"{mlp.path}{being_made}; no pretrained flow" in errors[0]
        assert f"{flow.path}; make it with: python" in errors[0]
        _, _, errors = run(capsys, "--results", tmp_path, "--limit", "1", of=sweep)
    assert errors[0].endswith(f"{being_made}; wait for it, or add --pretrain to this command")


def test_plan_counts_what_making_them_writes(tmp_path, capsys):
    planned = plan.make(sweep, "tiny", sweep.cells("tiny"), tmp_path)
    wanted = find(tmp_path).prerequisites
    with_them = plan.make(sweep, "tiny", sweep.cells("tiny"), tmp_path, wanted)
    number = sum(count_parameters(wanted[0].pretraining.trial).values())
    assert with_them.disk_bytes - planned.disk_bytes > number


def test_task_that_the_pretraining_does_not_see_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(HERE.parent)
    code, _, errors = run(
        capsys, "--plan", "--tasks", "cheetah-run", "--results", tmp_path, of=sweep
    )
    assert (code, len(errors)) == (2, 1)
    assert "needs a world model pretrained on cheetah-run" in errors[0]
    assert f"is trained on {TASK}. Make one with: python sweeps/phase8_pretrain.py" in errors[0]


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


def test_trials_start_from_what_another_process_makes_after_it_was_looked_up(
    made, tmp_path, capsys, monkeypatch
):
    find_now, ran = prerequisites.find, []

    def find_before(*arguments):
        found = find_now(*arguments)
        if not (tmp_path / PRETRAINED_FOLDER).exists():
            shutil.copytree(made / PRETRAINED_FOLDER, tmp_path / PRETRAINED_FOLDER)
        return found

    monkeypatch.setattr(prerequisites, "find", find_before)
    monkeypatch.setattr(launch, "run", lambda planned, *_: ran.append(planned) or 0)
    assert run(capsys, "--results", tmp_path, of=sweep)[0] == 0
    assert ran[0].counts() == {"new": 2}
    shutil.rmtree(tmp_path / PRETRAINED_FOLDER)
    assert not any(config.awaits_world_model for config in sweep.trials("tiny", results=tmp_path))
    shutil.rmtree(tmp_path / PRETRAINED_FOLDER)
    arguments = ["--results", str(tmp_path), "--data", str(tmp_path)]
    submitted = work.make_work(sweep, sweep_parser("x", sweep.scales).parse_args(arguments))
    submitted.check(num_jobs=1)
    assert not any(config.awaits_world_model for config in submitted.to_run)


def test_pretrainings_that_are_done_are_not_run_again(made, tmp_path, capsys):
    wanted = [needed.pretraining for needed in find(made).prerequisites]
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.ckpt")}
    assert make(wanted, made, tmp_path / "no data is made") == 0
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*.ckpt")} == before
    assert list(tmp_path.iterdir()) == []


def test_those_of_other_data_than_is_there_now_are_named(made, tmp_path, capsys):
    needed = find(made).prerequisites
    recipe = needed[0].pretraining.data
    path = collected_path(TASK, recipe, tmp_path)
    arrays = np.zeros((5, 3), np.float32), np.zeros((5, 1), np.float32), np.zeros(5, np.float32)
    write_store(path, TASK, *arrays, [5], ["uniform"], recipe.collection)
    said = [
        f"note: {w.pretraining.label}: pretrained on data that has changed since; to train it "
        f"again, delete {w.folder}"
        for w in needed
    ]
    for folder, notes in ((made.parent / "data", []), (tmp_path, said), (tmp_path / "none", [])):
        places = ["--plan", "--results", made, "--data", folder]
        _, out, _ = run(capsys, *places, of=sweep)
        assert [line for line in out.splitlines() if line.startswith("note: ")] == notes
        _, out, _ = run(capsys, *places, "--format", "json", of=sweep)
        told = [wanted["on_other_data"] for wanted in json.loads(out)["prerequisites"]]
        assert told == [bool(notes)] * 2
        _, out, _ = run(capsys, *places, of=tiny_pretraining)
        assert [line for line in out.splitlines() if line.startswith("note: ")] == notes
    damaged = tmp_path / "damaged"
    shutil.copytree(made, damaged)
    for path in damaged.rglob("best.ckpt"):
        path.write_bytes(b"no checkpoint")
    code, out, _ = run(
        capsys, "--plan", "--results", damaged, "--data", tmp_path, of=tiny_pretraining
    )
    assert (code, "note: " in out) == (0, False)


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
    found = find(tmp_path, {"mlp": (mlp,), "flow": (flow,)}).configs
    assert [config.world_model_from for config in found] == [str(mlp), str(flow)]
    assert [trial["fingerprint"] for trial in content["trials"]] == [c.fingerprint for c in found]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("nowhere.ckpt", "--world-model is 'nowhere.ckpt', but"),
        ("mpl=mlp.ckpt", "unknown kind of world model 'mpl'; did you mean 'mlp'"),
        ("mlp=mlp.ckpt,mlp=mlp.ckpt", "mlp.ckpt twice"),
        ("mlp=mlp.ckpt,flow.ckpt", "valid: FILE, or mlp=FILE,flow=FILE"),
        ("mlp=mpl.ckpt", "mpl.ckpt is not a file; did you mean 'mlp.ckpt'? valid: a file"),
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


FIDELITIES = dataclasses.replace(
    sweep,
    vary={**sweep.vary, "variant": ["flowwm"], "fidelity": ["published", "corrected"]},
    compare="fidelity",
)


def test_each_of_several_files_of_a_kind_stands_in_for_the_trials_that_it_fits(tmp_path, capsys):
    published = save(tmp_path / "p.ckpt", "flow", fidelity="published")
    corrected = save(tmp_path / "c.ckpt", "flow")
    given = f"flow={corrected},flow={published}"
    options = ["--plan", "--format", "json", "--results", tmp_path, "--world-model", given]
    for limit, states in (([], ["new", "new"]), (["--limit", "1"], ["new"])):
        code, out, errors = run(capsys, *options, *limit, of=FIDELITIES)
        assert (code, errors) == (0, [])  # also where a later trial alone starts from a file
        assert [trial["state"] for trial in json.loads(out)["trials"]] == states
    files = {"flow": (corrected, published)}
    found = prerequisites.find(FIDELITIES, "tiny", FIDELITIES.cells("tiny"), tmp_path, files)
    assert [c.world_model_from for c in found.configs] == [str(published), str(corrected)]


def test_each_of_many_files_is_read_once(tmp_path, monkeypatch):
    sizes = [16 + 8 * number for number in range(6)]
    key = "world_model.latent_dim"
    files = tuple(save(tmp_path / f"{size}.ckpt", **{key: size}) for size in sizes)
    vary = {"variant": ["baseline"], key: sizes, "task": [TASK], "seed": [1, 2]}
    many = dataclasses.replace(sweep, vary=vary)
    read = []
    monkeypatch.setattr(
        pretrained, "load_world_model", lambda *of: read.append(of) or load_world_model(*of)
    )
    prerequisites.find(many, "tiny", many.cells("tiny"), tmp_path, {"mlp": files})
    assert sorted(path for path, _ in read) == sorted(files)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("c",), r"c.ckpt does not fit .*tangent_velocity is True there and False here"),
        (("c", "p", "same"), r"c.ckpt and .*same.ckpt both fit .*; give one"),
        (
            ("c", "p", "wide"),
            r"no trial starts from .*wide.ckpt: .*does not fit .*latent_dim is",
        ),
    ],
)
def test_files_of_a_kind_that_fit_no_trial_or_the_same_are_one_line(names, said, tmp_path, capsys):
    save(tmp_path / "p.ckpt", "flow", fidelity="published")
    save(tmp_path / "c.ckpt", "flow")
    save(tmp_path / "same.ckpt", "flow", iterations=100)
    save(tmp_path / "wide.ckpt", "flow", **{"world_model.latent_dim": 32})
    given = ",".join(f"flow={tmp_path / name}.ckpt" for name in names)
    options = ["--plan", "--results", tmp_path, "--world-model", given]
    code, out, errors = run(capsys, *options, of=FIDELITIES)
    assert (code, out, len(errors)) == (2, "", 1)
    assert re.search(said, errors[0])


def test_file_in_place_of_several_pretrainings_is_refused(tmp_path, capsys):
    vary = {**sweep.vary, "variant": ["baseline"], "pretraining": [FIRST, SECOND]}
    paired = dataclasses.replace(sweep, vary=vary, hold={"epochs": 2, "finetune_wm": False})
    path = save(tmp_path / "mlp.ckpt")
    options = ["--plan", "--world-model", path, "--results", tmp_path]
    code, _, errors = run(capsys, *options, of=paired)
    assert (code, len(errors)) == (2, 1)
    assert f"{path} would replace both 'pretrained' and 'pretrained:1'" in errors[0]
    code, _, errors = run(capsys, *options, "--limit", "1", of=paired)
    assert (code, errors) == (0, [])


def test_file_that_no_trial_would_start_from_is_refused(tmp_path, capsys):
    path = save(tmp_path / "flow.ckpt", "flow")
    options = ["--plan", "--world-model", path, "--results", tmp_path]
    code, _, errors = run(capsys, *options, of=scratch_sweep)
    assert (code, len(errors)) == (2, 1)
    assert "no trial of tiny starts from a pretrained one of that kind" in errors[0]
    of_mlp = dataclasses.replace(sweep, vary={**sweep.vary, "variant": ["baseline"]})
    code, _, errors = run(capsys, *options, of=of_mlp)
    assert (code, len(errors)) == (2, 1)
    assert "of that kind; they take: mlp" in errors[0]


def test_files_that_only_later_trials_start_from_are_taken(tmp_path, capsys):
    mlp, flow = save(tmp_path / "a.ckpt"), save(tmp_path / "b.ckpt", "flow")
    given = f"mlp={mlp},flow={flow}"
    content = plan_as_json(capsys, tmp_path, "--world-model", given, "--limit", "1")
    assert [trial["state"] for trial in content["trials"]] == ["new"]


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


SHARED = {"batch_size": 64, "model_lr": 2e-3, "seed": 0, "selected": "best"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"batch_size": 256, "model_lr": 1e-4},
            "batch_size is 64 in .*a.ckpt and 256 in .*b.ckp",
        ),
        ({"seed": 1}, "seed is 0 in .*a.ckpt and 1 in .*b.ckpt$"),
        ({"selected": "last"}, "selected is best in .*a.ckpt and last in .*b.ckpt$"),
    ],
)
def test_pair_of_unlike_settings_is_refused_and_the_first_named(change, said, tmp_path):
    mlp = save(tmp_path / "a.ckpt", told=(200, SHARED))
    flow = save(tmp_path / "b.ckpt", "flow", told=(200, SHARED | change))
    configs = find(tmp_path, {"mlp": (mlp,), "flow": (flow,)}).configs
    with pytest.raises(ValueError, match="do not match: ") as refused:
        check_matched(configs)
    assert re.search(said, str(refused.value).partition(". Take others")[0])


def test_settings_are_part_of_what_the_tables_say_of_a_training(tmp_path):
    mlp = save(tmp_path / "a.ckpt", told=(200, SHARED))
    flow = save(tmp_path / "b.ckpt", "flow", told=(200, SHARED | {"batch_size": 256}))
    one, other = find(tmp_path, {"mlp": (mlp,), "flow": (flow,)}).configs
    ours, theirs = world_model_training(one), world_model_training(other)
    assert ours.startswith("200 iterations on data d1 of 1 task, settings ")
    assert ours != theirs
    assert ours.partition(TRAINED_WITH)[0] == theirs.partition(TRAINED_WITH)[0]


def pair_of_two_commits(folder, **code):
    """Return trials on a pair that two commits trained, and what tables say of their code.

    `code` is told beside both files.
    """
    given = {}
    for kind, commit in (("mlp", "c1"), ("flow", "c2")):
        (folder / kind).mkdir()
        given[kind] = (save(folder / kind / "best.ckpt", kind, told=(200, SHARED)),)
        (folder / kind / "about.json").write_text(json.dumps({"git_commit": commit, **code}))
    configs = find(folder, given).configs
    return configs, [world_model_training(config).partition(", code ")[2] for config in configs]


def test_pair_of_unlike_code_is_refused_and_told_apart_in_the_tables(tmp_path):
    configs, told = pair_of_two_commits(tmp_path)
    with pytest.raises(ValueError, match=r"code is c1 in .*mlp/best.ckpt and c2 in .*flow/best.ck"):
        check_matched(configs)
    assert told == ["c1", "c2"]


def test_pair_of_two_commits_with_the_same_learner_is_matched(tmp_path):
    configs, told = pair_of_two_commits(tmp_path, code_fingerprint="f1")
    check_matched(configs)
    assert told == ["f1", "f1"]


def test_pretraining_leaves_its_code_and_that_of_its_kind_beside_its_files(made):
    configs = find(made).configs
    training = [world_model_training(config) for config in configs]
    codes = [learner_code.fingerprints(world_model=c.world_model.kind).values() for c in configs]
    assert [told.partition(", code ")[2] for told in training] == [
        f"{code}, world model {own}" for code, own in codes
    ]
    check_matched(configs)


def test_pretraining_that_other_code_goes_on_with_tells_both(tmp_path):
    for commit, learner, kind in (
        ("c1", "f1", "mlp a1"),
        ("c2", "f1", "mlp a1"),
        ("c3", "f2", "mlp b2"),
        ("c1", "f1", "mlp a1"),
    ):
        code = {"git_commit": commit, "code_fingerprint": learner, "world_model_code": kind}
        describe(tmp_path, "some", "mlp", {}, code)
    about = read_about(tmp_path)
    assert about["git_commit"] == "c1 and c2 and c3"
    assert about["code_fingerprint"] == "f1 and f2"
    assert about["world_model_code"] == "mlp a1 and mlp b2"


def test_trial_on_another_world_model_is_not_one_of_an_earlier_learner(tmp_path):
    model = save(tmp_path / "model.ckpt")
    config = dataclasses.replace(sweep.cells("tiny")[0], world_model_from=str(model))
    planned = [SimpleNamespace(config=config)]
    asked = SimpleNamespace(results=tmp_path, sweep=sweep, trials=planned, to_run=planned)
    (tmp_path / sweep.name).mkdir()
    same = f"mlp-200-{config.world_model_digest[:8]}"
    table = [
        {"trial": trial, "status": "EVALUATED", "world_model_from": model_id}
        | {"config": json.dumps(config.to_dict()), "variant": config.variant}
        | {name: getattr(config, name) for name in ("task", "epochs", "seed")}
        for trial, model_id in (("0" * 16, "mlp-200-00000000"), ("1" * 16, same))
    ]
    write_rows(tmp_path / sweep.name / "trials.arrow", table, TRIALS)
    assert find_outdated(asked) == ["1" * 16]


def test_file_that_does_not_tell_its_settings_is_taken_as_before(tmp_path):
    mlp, flow = save(tmp_path / "a.ckpt", told=(200, SHARED)), save(tmp_path / "b.ckpt", "flow")
    check_matched(find(tmp_path, {"mlp": (mlp,), "flow": (flow,)}).configs)


def test_made_pair_matches_wherever_its_files_are_copied(made, tmp_path):
    copied = {}
    for config in find(made).configs:
        path = tmp_path / f"{config.world_model.kind}.ckpt"
        path.write_bytes(Path(config.world_model_from).read_bytes())
        copied[config.world_model.kind] = (path,)
    found = find(tmp_path, copied).configs
    check_matched(found)
    files = [load_world_model(Path(config.world_model_from)) for config in found]
    assert {file.run_iterations for file in files} == {2}
    assert files[0].training == files[1].training
    assert files[0].training["selected"] == "best"


def test_each_file_needs_one_of_the_other_kind_that_matches(tmp_path):
    def pair(seed):
        names = {kind: tmp_path / f"{kind}{seed}.ckpt" for kind in ("mlp", "flow")}
        return [save(p, kind, told=(200, SHARED | {"seed": seed})) for kind, p in names.items()]

    cells = sweep.cells("tiny")
    pairs = [(cell, path) for seed in (0, 1) for cell, path in zip(cells, pair(seed), strict=True)]
    configs = [dataclasses.replace(cell, world_model_from=str(path)) for cell, path in pairs]
    check_matched(configs)
    with pytest.raises(ValueError, match=r"seed is 0 in .*mlp0.ckpt and 1 in .*flow1.ckpt"):
        check_matched([configs[0], configs[3]])
    with pytest.raises(ValueError, match=r"seed is 1 in .*flow1.ckpt and 0 in .*mlp0.ckpt"):
        check_matched([configs[0], configs[1], configs[3]])


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
    given = {"mlp": (mlp / "best.ckpt",), "flow": (flow / "best.ckpt",)}
    check_matched(find(tmp_path, given).configs)


def test_world_models_of_one_kind_are_not_matched(tmp_path):
    one, other = save(tmp_path / "a.ckpt"), save(tmp_path / "b.ckpt", iterations=100)
    cell = sweep.cells("tiny")[0]
    check_matched([dataclasses.replace(cell, world_model_from=str(p)) for p in (one, other)])


def test_trial_that_awaits_its_world_model_is_told_from_others():
    cells = sweep.cells("tiny", {"seed": [1, 2]})
    assert {cell.world_model_from for cell in cells} == {PRETRAINED}
    assert len({cell.fingerprint for cell in cells}) == 4


def run_script(command, folder):
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


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

"""Of which code a result is: what all trials share of the learner, and what is their kinds' own."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import pwmray
from pwmray import learner_code, provenance
from pwmray.learner_code import find_other_code, fingerprints, name_code
from pwmray.models import POLICIES, WORLD_MODELS
from pwmray.registry import Record

PACKAGE = Path(pwmray.__file__).parent
KINDS = (*WORLD_MODELS.values(), *POLICIES.values())
BASELINE = {"world_model": "mlp", "policy": "gaussian"}
FULL_FLOW = {"world_model": "flow", "policy": "flow"}
MINE = {"world_model": "mine", "policy": "gaussian"}
LEARNER, MLP, GAUSSIAN = "the learner", "world model mlp", "policy gaussian"
BOTH_FLOWS = {"world model flow", "policy flow"}
CACHED = (
    provenance.package_files,
    learner_code._digest_shared,
    learner_code._digest_own,
    learner_code._shared,
    learner_code._imports,
)
# What a trial loads beside: files, records, names, what is shown while it runs.
RECORDS = {
    "checkpoint_file", "checks", "commands", "durations", "failures", "files", "formats", "gauges",
    "hold", "learner_code", "levels", "placement", "provenance", "registry", "results", "room",
    "system", "tensorboard_file", "trainable", "variants", "watchdog", "wording",
}  # fmt: skip
LOADED = """
import sys
import pwmray.pretraining.run, pwmray.trainable, pwmray.trial
print(*(name for name in sys.modules if name.startswith("pwmray.")))
"""
KIND = """
from .mine_layers import width
from pwmray.models.world_model_mlp import MLPWorldModel
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a copy of the package, whose code is told instead of its own."""
    copy = tmp_path / "pwmray"
    shutil.copytree(PACKAGE, copy, ignore=lambda *_: {"__pycache__"})
    monkeypatch.setattr(provenance, "PACKAGE", copy)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setattr(learner_code, "_MODELS", copy / "models")
    for kind in KINDS:
        module = sys.modules[kind.__module__]
        monkeypatch.setattr(module, "__file__", str(copy / "models" / Path(module.__file__).name))
    yield copy
    forget()


def forget():
    for function in CACHED:
        function.cache_clear()


def told(*variants):
    """Return the code that trials of some variants are of, by what it is the code of."""
    forget()
    found = {}
    for kinds in variants:
        names, hashes = name_code(kinds), fingerprints(**kinds)
        found |= {names[column]: hashes[column] for column in names}
    return found


def changed_by(file, *variants, text="# edited\n"):
    """Return what other code the text makes it, at the end of a file that is there or new."""
    before = told(*variants)
    with open(file, "a") as opened:
        opened.write(text)
    after = told(*variants)
    return {name for name in before if before[name] != after[name]}


def register(monkeypatch, file, base="mlp"):
    """Make a kind of world model "mine", whose class is in a file."""
    module = ModuleType("mine")
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, "mine", module)
    kind = type("Mine", (WORLD_MODELS[base],), {"__module__": "mine"})
    monkeypatch.setitem(WORLD_MODELS, "mine", kind)


def test_all_that_a_trial_loads_is_its_learner_or_only_records():
    run = [sys.executable, "-c", LOADED]
    printed = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    loaded = {tuple(name.split(".")[1:]) for name in printed.split()}
    parts = {Path(part).stem for part in learner_code._LEARNER}
    assert {name[0] for name in loaded} - parts == RECORDS | {"models"}
    assert all((PACKAGE / part).exists() for part in learner_code._LEARNER)
    files = {Path(sys.modules[kind.__module__].__file__) for kind in KINDS}
    own = files | learner_code._reach(files)
    counted = {path.stem for path in own | learner_code._shared() if path.parent.name == "models"}
    assert {name[1] for name in loaded if name[0] == "models" and name[1:]} == counted


def test_an_edit_of_a_kind_makes_its_own_trials_other_code_and_no_others(package):
    models, both = package / "models", (BASELINE, FULL_FLOW)
    assert changed_by(models / "world_model_mlp.py", *both) == {MLP}
    assert changed_by(models / "policy_gaussian.py", *both) == {GAUSSIAN}
    assert changed_by(models / "policy_flow.py", *both) == {"policy flow"}
    assert changed_by(models / "ode.py", *both) == BOTH_FLOWS  # only flows integrate


def test_an_edit_of_what_kinds_share_makes_all_trials_other_code(package):
    both = (BASELINE, FULL_FLOW)
    for name in ("algorithm/pwm.py", "kernels/norms.cpp", "models/layers.py", "models/critic.py"):
        assert changed_by(package / name, *both) == {LEARNER}, name
    # What another part of the learner begins to use is no longer a kind's own.
    text = "from pwmray.models import ode\n"
    assert changed_by(package / "build.py", *both, text=text) == {LEARNER, *BOTH_FLOWS}
    assert changed_by(package / "models/ode.py", *both) == {LEARNER}


def test_an_edit_of_what_only_plans_and_shows_makes_no_trial_other_code(package):
    for name in ("plan_text.py", "commands/log.py", "models/__init__.py", "models/draft.py"):
        assert changed_by(package / name, BASELINE, FULL_FLOW) == set(), name


def test_a_new_kind_leaves_the_trials_of_the_others_what_they_were(package, monkeypatch):
    before, models = told(BASELINE), package / "models"
    (models / "mine_layers.py").write_text("width = 8\n")
    (models / "world_model_mine.py").write_text(KIND)
    with open(models / "__init__.py", "a") as file:
        file.write("from pwmray.models.world_model_mine import Mine\nWORLD_MODELS['mine'] = Mine\n")
    register(monkeypatch, models / "world_model_mine.py")
    after = told(BASELINE, MINE)
    assert after == {**before, "world model mine": after["world model mine"]}
    mine = {"world model mine"}
    assert changed_by(models / "world_model_mine.py", BASELINE, MINE) == mine
    assert changed_by(models / "mine_layers.py", BASELINE, MINE) == mine
    assert changed_by(models / "world_model_mlp.py", BASELINE, MINE) == {MLP, *mine}


def test_kind_from_outside_the_package_is_told_by_its_file(package, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from pwmray.models import ode\n")
    register(monkeypatch, tmp_path / "mine.py")
    assert changed_by(tmp_path / "mine.py", MINE) == {"world model mine"}
    assert changed_by(package / "models" / "ode.py", MINE) == {"world model mine"}


def test_kind_in_a_folder_of_its_own_is_told_by_every_file_of_it(package, monkeypatch):
    folder = package / "models" / "mine"
    (folder / "parts").mkdir(parents=True)
    (folder / "kind.py").write_text("from pwmray.models.mine import parts\n")
    register(monkeypatch, folder / "kind.py")
    for name in ("kind.py", "__init__.py", "parts/widths.py"):
        assert changed_by(folder / name, MINE, BASELINE) == {"world model mine"}, name


@pytest.mark.parametrize("text", ["from pwmray import models\n", "from pwmray.models import *\n"])
def test_kind_that_imports_all_models_is_told_by_each_of_them(text, package, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(text)
    register(monkeypatch, tmp_path / "mine.py")
    for name in ("ode", "policy_flow", "world_model_flow"):
        assert changed_by(package / "models" / f"{name}.py", MINE) == {"world model mine"}


def test_kind_from_outside_the_package_is_the_same_wherever_it_lies(package, monkeypatch):
    told = set()
    for name in ("a", "z"):  # before the package and behind it
        folder = package.parent / name
        folder.mkdir()
        (folder / "mine.py").write_text("from pwmray.models import ode\n")
        register(monkeypatch, folder / "mine.py")
        learner_code._digest_own.cache_clear()
        told.add(fingerprints(**MINE)["world_model_code"])
    assert len(told) == 1


def test_trials_of_a_kind_in_no_file_are_told_apart_by_the_commit_alone(monkeypatch):
    register(monkeypatch, "<a notebook>")
    learner_code._digest_own.cache_clear()
    columns = ("code_fingerprint", "world_model_code", "policy_code")
    assert fingerprints(**MINE) == dict.fromkeys(columns)
    assert None not in fingerprints(**BASELINE).values()
    commit = provenance.code()["git_commit"]
    for recorded, found in ((commit, []), ("c1", [LEARNER])):
        record = Record([{**fingerprints(**MINE), "git_commit": recorded}])
        assert find_other_code(record, MINE) == found


def test_record_of_an_earlier_version_is_of_other_code():
    ours = fingerprints(**BASELINE)
    assert find_other_code(Record([ours]), BASELINE) == []
    assert find_other_code(Record([{**ours, "policy_code": "gaussian 0"}]), BASELINE) == [GAUSSIAN]
    assert LEARNER in find_other_code(Record([{"code_fingerprint": "f1"}]), BASELINE)
    assert find_other_code(Record([]), BASELINE) == []


def test_half_written_file_beside_the_learner_stops_no_trial(package):
    text = "from pwmray.models import (\n"
    assert changed_by(package / "algorithm" / "draft.py", BASELINE, text=text) == {LEARNER}

"""What the file of a sweep or a search cannot mean: one line and exit code 2, before anything."""

import dataclasses

import pytest

from cluster import submit
from pwmray.pretrain_command import Pretraining
from tests.tiny import SCALES, sweep
from tests.tiny_search import search

TINY = SCALES["tiny"]
LAPTOP = {"instead": {"epochs": {4: None, 6: None}}, "set": {}}


def said_by(experiment, capsys, **changes):
    """Return what the changed sweep or search says when its file is run with --plan."""
    with pytest.raises(SystemExit) as ended:
        dataclasses.replace(experiment, **changes).main(["--plan", "--scale", "tiny"])
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert (ended.value.code, out) == (2, "")
    return line


def at_tiny(**here):
    return {"at_scale": {"tiny": here}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "mine sweep"}, "a sweep is called 'mine sweep'; valid: "),
        ({"name": 3}, "a sweep is called 3; valid: "),
        ({"compare": "policy"}, "sweep tiny: 'policy' is compared but does not vary"),
        ({"compare": ["epochs"]}, "sweep tiny: ['epochs'] is compared but does not vary"),
        ({"within": ["variant", "horizon"]}, "'horizon' is compared but does not vary (within)"),
        ({"within": "variant"}, "within is 'variant'; it must be a list"),
        ({"vary": {}}, "'epochs' is compared but does not vary"),
        ({"vary": ["epochs"]}, "vary is ['epochs']; it must be a mapping of axes"),
        ({"vary": {**sweep.vary, "seed": 1}}, "axis 'seed' is 1; it must be a list of levels"),
        ({"vary": {**sweep.vary, "variant": "baseline"}}, "axis 'variant' is 'baseline'; it must"),
        ({"vary": {**sweep.vary, "seed": {1, 2}}}, "axis 'seed' is {1, 2}; it must be a list"),
        ({"vary": {**sweep.vary, "variant": ["baseline", None]}}, "'variant' has a level None"),
        ({"vary": {**sweep.vary, "methodology": {"a": {}}}}, "axis 'methodology' has named levels"),
        ({"hold": ["learner.horizon"]}, "hold is ['learner.horizon']; it must be a mapping of"),
        ({"hold": {"epochs": 8}}, "'epochs' is held, but axis 'epochs' sets it; drop one of them"),
        ({"hold": {"policy.kind": "flow"}}, "'policy.kind' is held, but axis 'variant' sets it"),
        ({"gpus": "H100"}, "gpus is 'H100'; it must be a mapping of axes"),
        ({"gpus": {"epochs": "H100"}}, "gpus: 'epochs' is 'H100'; it must be a mapping of the"),
        ({"gpus": {"arm": {"a": "H100"}}}, "gpus: unknown axis 'arm'"),
        ({"scales": {}}, "scales is empty"),
        ({"scales": None}, "sweep tiny: scales is None; it must be a mapping of names"),
        ({"scales": {"tiny": {}}}, "scale 'tiny' lacks 'instead'"),
        ({"scales": {"tiny": {"instead": {}}}}, "scale 'tiny' lacks 'set'"),
        ({"scales": {"tiny": {**TINY, "instead": {"epochs": 4}}}}, "'instead' of 'epochs' is 4"),
        ({"scales": {"tiny": {**TINY, "instead": {"epoch": {4: 2}}}}}, "unknown axis 'epoch'; did"),
        ({"scales": {"tiny": {**TINY, "pretraining": {}}}}, "scale 'tiny': unknown part 'pretrain"),
        (
            {"scales": {"tiny": {**TINY, "minutes_per_1000_epochs": 4}}},
            "scale 'tiny': 'minutes_per_1000_epochs' is 4; it must be a mapping",
        ),
        (
            {"scales": {"tiny": {**TINY, "pretraining_minutes": {"mlp": "4"}}}},
            "'pretraining_minutes' of 'mlp' is '4'; it must be of type float",
        ),
        ({"scales": {"tiny": LAPTOP}}, "scale 'tiny' leaves axis 'epochs' without levels"),
        *(
            ({"hold": {key: [one]}}, f"unknown {key} ['{one}']; did you mean '{one}'?")
            for key, one in (("fidelity", "published"), ("size", "19"))
        ),
        ({"vary": {**sweep.vary, "variant": [["baseline"]]}}, "unknown variant ['baseline']"),
        (
            {"vary": {**sweep.vary, "variant": [{"policy.kind": ["flow"]}]}, "compare": "epochs"},
            "unknown policy.kind ['flow']; did you mean 'flow'?",
        ),
        (
            {"vary": {**sweep.vary, "variant": ["baseline"], "policy.kind": ["flow"]}},
            "'policy.kind' is 'flow', but variant 'baseline' sets it to 'gaussian'; drop one",
        ),
        ({"hold": {"size": None}}, "unknown size None; valid: laptop"),
        ({"hold": {"fidelity": None}}, "unknown fidelity None; valid: corrected"),
        (at_tiny(epochs=20), "axis 'epochs' is 20; it must be a list of levels"),
        (at_tiny(epochs=[]), "axis 'epochs' has no levels"),
        ({"at_scale": {"tiny": 20}}, "at_scale: 'tiny' is 20; it must be a mapping"),
    ],
)
def test_sweep_that_cannot_be_meant_is_one_line(changes, said, capsys):
    assert said in said_by(sweep, capsys, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"space": {"epochs": [1, 2]}}, "search tiny_search: 'epochs' cannot be searched over"),
        ({"space": {"planner.horizon": [2, 3]}}, "'planner.horizon' cannot be searched over"),
        ({"space": ["learner.horizon"]}, "space is ['learner.horizon']; it must be a mapping"),
        (
            {"space": {"learner.actor_lr": {"low": 1e-4, "high": 1e-2, "log": "yes"}}},
            "'learner.actor_lr' has log 'yes'; valid: True, False",
        ),
        ({"hold": {**search.hold, "policy.num_substeps": 2}}, "'policy.num_substeps' is held, but"),
        ({"hold": {**search.hold, "task": "walker-run"}}, "'task' is held, but tasks sets it"),
        (at_tiny(**{"learner.actor_lr": 1e-3}), "'learner.actor_lr' is held, but space sets it"),
        (
            {"hold": {**search.hold, "policy.kind": "gaussian"}},
            "'policy.kind' is 'gaussian', but variant 'flowpolicy' sets it to 'flow'",
        ),
        (
            {"space": {"variant": ["fullflow", "baseline"]}, "hold": {"policy.kind": "flow"}},
            "'policy.kind' is 'flow', but variant 'baseline' sets it to 'gaussian'",
        ),
        (
            {"space": {"policy.kind": ["gaussian", "flow"]}, "hold": {"variant": "fullflow"}},
            "'policy.kind' is 'gaussian', but variant 'fullflow' sets it to 'flow'",
        ),
        ({"hold": {**search.hold, "variant": None}}, "unknown variant None; valid: baseline"),
        ({"tasks": []}, "tasks is empty"),
        ({"tasks": "pendulum-spin"}, "tasks is 'pendulum-spin'; it must be a list"),
        ({"tasks": ["pendulum-spin"] * 2}, "tasks has 'pendulum-spin' twice"),
        ({"tasks": [3]}, "unknown task '3'"),
        (at_tiny(tasks=[]), "tasks is empty"),
        *(
            ({"num_trials": number}, f"num_trials is {number!r}; it must be a whole number from 1")
            for number in ("3", -3, 0, 2.5, True)
        ),
        (at_tiny(num_trials=0), "num_trials is 0"),
        ({"scales": {}}, "scales is empty"),
        ({"scales": None}, "scales is None; it must be a mapping of names"),
    ],
)
def test_search_that_cannot_be_meant_is_one_line(changes, said, capsys):
    assert said in said_by(search, capsys, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "my pair"}, "a pretraining is called 'my pair'; valid: "),
        ({"vary": ["seed"]}, "pretraining pair: vary is ['seed']; it must be a mapping"),
        ({"vary": {"seed": 3}}, "pretraining pair: axis 'seed' is 3; it must be a list"),
        ({"vary": {"world_model.kind": "mlp"}}, "axis 'world_model.kind' is 'mlp'; it must be a"),
        ({"vary": {"world_model.kind": {"mlp": {}}}}, "axis 'world_model.kind' is {'mlp': {}}; it"),
        ({"vary": {"world_model.kind": []}}, "axis 'world_model.kind' has no levels"),
        ({"vary": {"world_model.kind": [["mlp"]]}}, "unknown world_model.kind ['mlp']; did you"),
        ({"hold": ["seed"]}, "pretraining pair: hold is ['seed']; it must be a mapping"),
        ({"hold": {"world_model.kind": "mlp"}}, "'world_model.kind' is held, but axis"),
        ({"scales": {}}, "pretraining pair: scales is empty"),
        ({"scales": None}, "pretraining pair: scales is None; it must be a mapping of names"),
        ({"scales": {"tiny": {"set": {}}}}, "scale 'tiny' lacks 'instead'"),
    ],
)
def test_pretraining_that_cannot_be_meant_is_one_line(changes, said, capsys):
    scales = {"tiny": {**TINY, "pretrain": {"tasks": ["pendulum-spin"]}}}
    pair = Pretraining("pair", {"world_model.kind": ["mlp", "flow"]}, scales)
    assert said in said_by(pair, capsys, **changes)


def test_what_some_levels_set_may_be_held_for_the_others():
    arms = {"arm": {"usual": {}, "short": {"learner.horizon": 2}}}
    wide = {"hold": {"learner.horizon": 5}, "compare": "arm", "vary": {**sweep.vary, **arms}}
    found = dataclasses.replace(sweep, **wide).cells("tiny")
    assert {config.learner.horizon for config in found} == {2, 5}


def test_submitting_a_sweep_that_cannot_be_meant_is_one_line(tmp_path, capsys):
    file = tmp_path / "few.py"
    file.write_text(
        "import dataclasses\nfrom tests.tiny import sweep as tiny\n"
        'sweep = dataclasses.replace(tiny, compare="policy")\n'
    )
    assert submit.main([str(file), "--profile", "h100"]) == 2
    said = "error: sweep tiny: 'policy' is compared but does not vary"
    assert capsys.readouterr().err.splitlines() == [said]

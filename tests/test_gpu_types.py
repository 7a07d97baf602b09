"""Trials that ask for a type of GPU: by the specification, of Ray, and where there is none."""

import dataclasses
import signal

import pytest

from pwmray import placement
from pwmray.config import TrialConfig
from pwmray.runtime import RuntimeConfig
from pwmray.search import run as search_run
from pwmray.sweep_options import sweep_parser
from tests.planned_sweeps import PHASE6
from tests.tiny import sweep
from tests.tiny_gpus import sweep as SWEEP

BY_RAY = {"CPU": 8.0, "GPU": 2.0, "accelerator_type:H100": 1.0, "node:1": 1.0}
BY_NAME = {"CPU": 8.0, "GPU": 8.0, "H100": 8.0, "accelerator_type:H100": 1.0}


def bundle_of(gpu_type, offered, gpu_fraction=1.0):
    cell = {"task": "cheetah-run", "seed": 1, "epochs": 1}
    settings = {"runtime.gpu_type": gpu_type, "runtime.gpu_fraction": gpu_fraction}
    config = TrialConfig.from_flat({**cell, **settings})
    asked = placement.bundle(config.runtime, 1, offered, offered)
    (bundle,) = placement.resources({"grid": {"bundle": asked}}).bundles
    return bundle


@pytest.mark.parametrize(
    ("gpu_type", "offered", "asked"),
    [
        ("H100", BY_NAME, {"CPU": 1, "GPU": 0.5, "H100": 0.5}),
        ("H100", BY_RAY, {"CPU": 1, "GPU": 0.5, "accelerator_type:H100": 0.001}),
        ("H200", BY_RAY, {"CPU": 1, "GPU": 0.5}),
        ("", BY_RAY, {"CPU": 1, "GPU": 0.5}),
        ("H100", {"CPU": 2.0}, {"CPU": 1}),
        ("H100", {"CPU": 2.0, "H100": 1.0}, {"CPU": 1, "H100": 0.5}),  # to be placed by alone
    ],
)
def test_trial_asks_ray_for_its_gpu_where_the_cluster_offers_it(gpu_type, offered, asked):
    assert bundle_of(gpu_type, offered, gpu_fraction=0.5) == asked


def test_trials_that_ask_for_the_same_give_tune_one_object_to_compare():
    asked = [{"CPU": 1.0, "GPU": share} for share in (0.5, 0.5, 1.0)]
    first, same, other = (placement.resources({"grid": {"bundle": bundle}}) for bundle in asked)
    assert first is same
    assert first != other


def test_gpu_that_the_cluster_lacks_is_said_with_those_that_it_has():
    said = placement.describe_missing_gpus(["", "H100", "H200"], BY_RAY)
    assert said == ("no H200 in this cluster (it has H100): trials that ask for one take any GPU")


@pytest.mark.parametrize("offered", [BY_NAME, {"CPU": 2.0}])
def test_nothing_is_said_where_all_are_there_or_none_is_used(offered):
    assert placement.describe_missing_gpus(["H100"], offered) == ""


@pytest.mark.parametrize(
    ("asked", "machines", "places"),
    [
        ({"CPU": 1.0, "GPU": 0.6}, [{"CPU": 8.0, "GPU": 2.0}], 2),  # not 3: no trial has two parts
        ({"CPU": 1.0, "GPU": 1 / 3}, [{"CPU": 8.0, "GPU": 2.0}], 6),
        ({"CPU": 1.0, "GPU": 0.5}, [{"CPU": 2.0, "GPU": 2.0}], 2),
        ({"CPU": 2.0}, [{"CPU": 3.0}, {"CPU": 3.0}], 2),  # nor CPUs of two machines
        ({"CPU": 1.0, "GPU": 1.0}, [{"CPU": 8.0}, {"CPU": 8.0, "GPU": 1.0}], 1),
        ({"CPU": 1.0, "GPU": 1.0, "H100": 1.0}, [{"CPU": 8.0, "GPU": 4.0}, BY_NAME], 8),
        ({"CPU": 1.0}, [], 0),
    ],
)
def test_places_are_counted_machine_by_machine_and_gpu_by_gpu(asked, machines, places):
    assert placement.count_places(asked, machines) == places


def test_search_proposes_no_more_trials_than_there_are_places(monkeypatch):
    machine = {"CPU": 8.0, "GPU": 2.0}
    monkeypatch.setattr(search_run.connect, "machines", lambda: [machine])
    monkeypatch.setattr(search_run.ray, "cluster_resources", lambda: machine)
    assert search_run._count_places(RuntimeConfig(num_cpus=1, gpu_fraction=0.6)) == 2


def test_gpu_is_no_part_of_what_defines_a_trial():
    plain = dataclasses.replace(PHASE6, gpus={})
    found = [trial.fingerprint for trial in PHASE6.cells("paper")]
    assert found == [trial.fingerprint for trial in plain.cells("paper")]


@pytest.mark.parametrize(
    ("gpus", "said"),
    [
        ({"epoch": {4: "H100"}}, "gpus: unknown axis 'epoch'; did you mean 'epochs'"),
        ({"epochs": {5: "H100"}}, "gpus: unknown level of epochs 5; .*valid: 4, 6"),
    ],
)
def test_gpus_of_an_axis_or_level_that_is_not_there_are_refused(gpus, said):
    with pytest.raises(ValueError, match=f"sweep tiny: {said}"):
        dataclasses.replace(sweep, gpus=gpus).check()


def test_gpus_are_given_by_the_names_of_levels_and_beside_levels_that_have_none():
    named = dataclasses.replace(
        sweep,
        vary={
            **sweep.vary,
            "way": {"a": {"learner.horizon": 2}, "b": {"learner.horizon": 3}},
            "learner.discount": [0.9, {"learner.discount": 0.5}],
        },
        gpus={"way": {"b": "H200"}, "learner.discount": {0.9: "H100"}},
    )
    trials = named.cells("tiny")
    asked = {(t.learner.horizon, t.learner.discount): t.runtime.gpu_type for t in trials}
    assert asked == {(2, 0.9): "H100", (2, 0.5): "", (3, 0.9): "H200", (3, 0.5): "H200"}


def planned(tmp_path, *options):
    place = ["--results", str(tmp_path / "results"), "--data", str(tmp_path / "data")]
    parser = sweep_parser(SWEEP.name, SWEEP.scales)
    return SWEEP.plan(parser.parse_args(["--scale", "tiny", *place, *options]))


@pytest.mark.parametrize(
    ("types", "expected"),
    [("H100", {5: "H100"}), ("H100,H200", {5: "H100", 8: "H200"})],
)
def test_command_runs_the_trials_of_some_gpus(tmp_path, types, expected):
    trials = [trial.config for trial in planned(tmp_path, "--gpu-types", types).trials]
    assert {config.epochs: config.runtime.gpu_type for config in trials} == expected


def test_command_says_how_many_trials_share_a_gpu(tmp_path):
    usual, shared = planned(tmp_path), planned(tmp_path, "--trials-per-gpu", "4")
    assert {trial.config.runtime.gpu_fraction for trial in shared.trials} == {0.25}
    assert [t.config.fingerprint for t in shared.trials] == [
        t.config.fingerprint for t in usual.trials
    ]


def test_gpus_that_no_trial_asks_for_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--gpu-types L40S: no trial asks for one; .*H100, H200"):
        planned(tmp_path, "--gpu-types", "L40S")


@pytest.mark.parametrize("gpu_type", ["H 100", "-", "../H100", "H100,H200"])
def test_name_that_ray_cannot_have_is_refused(gpu_type):
    with pytest.raises(ValueError, match=r"runtime\.gpu_type is .*such as H100"):
        dataclasses.replace(sweep, gpus={"epochs": {4: gpu_type}}).cells("tiny")


@pytest.mark.slow
def test_ray_places_what_is_asked_for_on_a_cluster_that_offers_it():
    import ray
    from ray.util.placement_group import placement_group

    left = signal.getsignal(signal.SIGTERM)  # Ray takes it
    ray.init("local", num_cpus=2, num_gpus=2, resources={"H100": 1}, include_dashboard=False)
    signal.signal(signal.SIGTERM, left)
    try:
        offered = ray.cluster_resources()
        groups = [placement_group([bundle_of("H100", offered)]) for _ in range(2)]
        placed = [group.wait(timeout_seconds=10) for group in groups]
        assert sorted(placed) == [False, True]  # the other GPU is no H100
    finally:
        ray.shutdown()

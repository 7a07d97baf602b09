"""Networks compiled: the same numbers, the same files, and what is said where they cannot be."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from pwmray.algorithm import compiling
from pwmray.algorithm.compiling import compile_networks
from pwmray.driver import connect
from pwmray.variants import VARIANTS
from tests.learners import EPOCHS, make_learner, relative_error, windows


def test_without_a_compiler_networks_stay_and_the_log_says_why(monkeypatch, caplog):
    monkeypatch.setattr(compiling, "reason_against", lambda device: "no C++ compiler")
    learner = make_learner("baseline")
    said = compile_networks(learner, learner.optimizers.values())
    assert said == "off: no C++ compiler"
    assert not learner.policy.mean.uses_kernels
    assert caplog.messages == ["compile=off: no C++ compiler"]


def test_missing_compiler_is_found():
    program = (
        "import torch\n"
        "from pwmray.algorithm.compiling import reason_against\n"
        "print(reason_against(torch.device('cpu')))"
    )
    alone = {"PATH": "/nowhere", "CXX": "no-such-compiler", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=alone, capture_output=True, text=True, check=True
    )
    assert "no-such-compiler" in done.stdout


def test_sweep_on_a_machine_without_a_compiler_says_so(monkeypatch, built_anew):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    said = connect.describe_missing_compiler({"CPU": 2.0})
    assert said.startswith("no C++ compiler: CXX is not set, and none of c++, g++, clang++ found")
    said = connect.describe_missing_compiler({"CPU": 2.0, "GPU": 1.0})  # Triton needs one
    assert said.startswith("no C compiler: CC is not set, and none of gcc, clang found; trials run")


def test_sweep_on_cpus_whose_compiler_does_not_work_says_so(monkeypatch, built_anew):
    monkeypatch.setenv("CXX", "ls")
    said = connect.describe_missing_compiler({"CPU": 2.0})
    assert said.startswith("ls ended with 2: ")
    assert "\n" not in said
    assert said.endswith("; trials run without compiled kernels, which takes longer")


def test_sweep_on_a_machine_with_a_compiler_that_works_says_nothing():
    assert connect.describe_missing_compiler({"CPU": 2.0}) == ""


@pytest.mark.parametrize("variant", VARIANTS)
def test_update_by_kernels_is_the_plain_one(variant, caplog):
    plain = make_learner(variant)
    learner = copy.deepcopy(plain)
    assert compile_networks(learner, learner.optimizers.values()) == "on"
    check_updates(learner, plain)
    assert learner.critics.uses_kernels
    assert not caplog.messages


def check_updates(learner, plain):
    """Compare two learners after the same updates."""
    draws, same = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    sample, also = windows(5), windows(5)
    for epoch in range(EPOCHS):
        found = learner.update(sample, draws, epoch / EPOCHS)
        expected = plain.update(also, same, epoch / EPOCHS)

    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert list(learner.state_dict()) == list(plain.state_dict())
    wanted = dict(plain.named_parameters())
    errors = {n: relative_error(p, wanted[n]) for n, p in learner.named_parameters()}
    assert max(errors.values()) < 1e-5, max(errors, key=errors.__getitem__)

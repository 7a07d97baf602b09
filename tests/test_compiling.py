"""Networks compiled: the same numbers, the same files, and what is said where they cannot be."""

import copy
import logging
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from pwmray.algorithm import compiling
from pwmray.algorithm.compiling import compile_networks, uncompiled
from pwmray.config import VARIANTS
from pwmray.models.layers import mish
from tests.test_reference import EPOCHS, make_learner, relative_error, windows


def test_mish_as_it_is_compiled_is_mish(monkeypatch):
    x = torch.cat([torch.linspace(-100, 100, 20_001), torch.tensor([1e4, -1e4, 0.0])])
    x.requires_grad_(True)
    (expected,) = torch.autograd.grad(F.mish(x).sum(), x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert_close(mish(x), F.mish(x), rtol=1e-6, atol=1e-7)
    assert_close(torch.autograd.grad(mish(x).sum(), x)[0], expected, rtol=1e-5, atol=1e-6)


def test_without_a_compiler_networks_stay_and_the_log_says_why(monkeypatch, caplog):
    monkeypatch.setattr(compiling, "reason_against", lambda device: "no C++ compiler")
    learner = make_learner("baseline")
    compile_networks(learner)
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


@pytest.fixture
def by_torch(monkeypatch):
    """Compile on a CPU as on a GPU."""
    monkeypatch.setattr(compiling, "_use_kernels", compiling._compile_by_torch)


@pytest.mark.parametrize("variant", VARIANTS)
def test_update_by_kernels_is_the_plain_one(variant, caplog):
    plain = make_learner(variant)
    learner = copy.deepcopy(plain)
    compile_networks(learner)
    check_updates(learner, plain)
    assert learner.critics.uses_kernels
    assert not caplog.messages


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["baseline", "fullflow"])
def test_update_compiled_by_torch_is_the_plain_one(variant, caplog, by_torch):
    plain = make_learner(variant)
    learner = copy.deepcopy(plain)
    torch._dynamo.utils.counters.clear()
    compile_networks(learner)
    check_updates(learner, plain)
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert not warnings  # of too many recompilations, above all
    assert not torch._dynamo.utils.counters["graph_break"]


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


def test_network_that_cannot_be_compiled_runs_as_it_is_written(monkeypatch, by_torch):
    def failing(graph, inputs):
        raise RuntimeError("no such instruction")

    plain = make_learner("fullflow")
    learner = copy.deepcopy(plain)
    monkeypatch.setattr(compiling, "reason_against", lambda device: "")
    monkeypatch.setattr(compiling, "_BACKEND", failing)
    compile_networks(learner)
    found = learner.update(windows(5), torch.Generator().manual_seed(1), 0.0)
    expected = plain.update(windows(5), torch.Generator().manual_seed(1), 0.0)
    assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.slow
def test_evaluating_compiles_nothing(by_torch):
    learner = make_learner("baseline")
    compile_networks(learner)
    torch._dynamo.utils.counters.clear()
    with uncompiled():
        learner.act(torch.zeros(10, 24))
        learner.predict_return(torch.zeros(3, 24))
    assert not torch._dynamo.utils.counters["frames"]

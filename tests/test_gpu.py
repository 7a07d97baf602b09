"""What only a GPU can do: recorded epochs, the kernels for it, float32 products, memory.

Needs torch, numpy and pyarrow alone: `pytest tests/test_gpu.py`. Skipped where there is no GPU.
"""

import copy
import gc
import logging
import weakref

import pytest
import torch
from torch.testing import assert_close

from pwmray import predictions
from pwmray.algorithm import agreement, replay
from pwmray.algorithm.clipped_step import clip_and_step
from pwmray.algorithm.compiling import compile_networks, reason_against
from pwmray.algorithm.epoch import make_epoch
from pwmray.data.sampler import Batch
from pwmray.devices import set_up_torch
from pwmray.kernels import branches, norms
from pwmray.models.critic import CriticConfig, CriticEnsemble
from pwmray.precision import BFLOAT16, FLOAT32, autocast
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM
from pwmray.variants import VARIANTS
from tests.learners import UNEVEN, make_learner, step_difference
from tests.plain_norms import KINDS, ROUNDING, check_norm, draw

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

GPU = torch.device("cuda")
SHAPES = [(3, 5, 24), (2, 700, 40), (3, 2048, 400), (1, 1100, 1792), (1, 9, 4096)]
EPOCHS = 5


@pytest.fixture(autouse=True)
def exact():
    set_up_torch(GPU, 1, FLOAT32)


class Windows:
    """A sampler of windows without any meaning, drawn on the GPU."""

    is_mapped = False

    def __init__(self, seed):
        self.generator = torch.Generator(GPU).manual_seed(seed)

    def sample(self, size):
        a = torch.zeros(3, size, MAX_ACTION_DIM, device=GPU)
        a[..., :2] = self._normal(3, size, 2).tanh()
        obs, r = self._normal(4, size, MAX_OBS_DIM), self._normal(3, size, 1).sigmoid()
        return Batch(obs, a, r)

    def _normal(self, *shape):
        return torch.randn(shape, generator=self.generator, device=GPU)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_norm_and_its_gradients_are_those_of_torch(kind, shape, dtype):
    check_norm(kind, [tensor.to(GPU) for tensor in draw(shape, dtype)], dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(kind, value):
    x, *affine = [tensor.to(GPU) for tensor in draw((1, 2, 16))]
    x[0, 0, 3] = value
    y = norms.norm(kind, x, *affine)
    assert not y[0, 0].isfinite().any()
    assert y[0, 1].isfinite().all()


@pytest.mark.parametrize("matmul", [FLOAT32, BFLOAT16])
def test_critics_and_their_gradients_are_those_of_torch(matmul):
    config = CriticConfig(units=(400, 200), num_critics=3)
    plain = CriticEnsemble(config, 96, torch.Generator().manual_seed(0)).to(GPU)
    ours = copy.deepcopy(plain)
    ours.uses_kernels = True
    z, y = torch.randn(2048, 96, device=GPU), torch.randn(2048, device=GPU)
    found = []
    for critics, dtype in ((ours, matmul), (plain, FLOAT32)):
        with autocast(dtype, GPU):
            error = critics.differentiate_error(z, y)
        gradients = [p.grad for p in critics.parameters()]
        leaf = z.clone().requires_grad_()
        with autocast(dtype, GPU):
            values = critics.requires_grad_(False)(leaf)
        values.square().sum().backward()
        found.append((error, values, leaf.grad, *gradients))
    rounding = 1e-4 if matmul == FLOAT32 else 0.03
    for a, b in zip(*found, strict=True):
        assert a.dtype == torch.float32
        assert a.is_contiguous()
        assert_close(a, b, rtol=0, atol=rounding * b.abs().max().item())


def test_step_of_adam_is_that_of_torch():
    shapes = [(3, 70, 11), (5,), (1,), (1025,), (300, 1000)]
    ours, theirs = ([torch.nn.Parameter(torch.ones(s, device=GPU)) for s in shapes] for _ in "ab")
    optimizers = [torch.optim.Adam(p, 1e-2, (0.7, 0.95), fused=True) for p in (ours, theirs)]
    replay.prepare_rates(optimizers, GPU)
    optimizers[0].uses_kernels = True
    copies = {p: p.detach().bfloat16() for p in ours[::2]}
    for i in range(10):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = 10.0 ** (i - 4) * torch.randn_like(p)
            q.grad = p.grad.clone()
        norm = clip_and_step(optimizers[0], 1.0, copies)
        assert_close(norm, torch.nn.utils.clip_grad_norm_(theirs, 1.0))
        optimizers[1].step()
        for p, q in zip(ours, theirs, strict=True):
            assert_close(p, q, rtol=1e-5, atol=1e-6)
        for p, copied in copies.items():
            assert_close(copied, p.detach().bfloat16(), rtol=0, atol=0)
    for a, b in zip(*(replay.optimizer_tensors([o]) for o in optimizers), strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "kernels"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("matmul", [FLOAT32, BFLOAT16])
def test_recorded_epochs_are_the_ordinary_ones(variant, matmul, compiled, caplog):
    caplog.set_level(logging.INFO)
    set_up_torch(GPU, 1, matmul)
    plain = make_learner(variant, **{**UNEVEN, "learner.matmul": matmul}).to(GPU)
    learner, before = copy.deepcopy(plain), copy.deepcopy(plain)
    runs = []
    for one, recorded in ((plain, False), (learner, True)):
        noise = torch.Generator(GPU).manual_seed(1)
        runs.append(make_epoch(one, Windows(2), noise, compiled and recorded, recorded))
    assert "cuda_graph=on" in caplog.text, caplog.text
    for epoch in range(EPOCHS):
        expected, found = (run(epoch / EPOCHS) for run in runs)
    assert list(found) == list(expected)
    assert step_difference(learner, plain, before) < {FLOAT32: 0.01, BFLOAT16: 0.3}[matmul]


def test_epochs_recorded_in_turn_are_those_recorded_in_branches(monkeypatch):
    learner, record = make_learner("fullflow", **UNEVEN).to(GPU), replay.record_graph
    other, before = copy.deepcopy(learner), copy.deepcopy(learner)
    runs = [make_epoch(learner, Windows(2), torch.Generator(GPU).manual_seed(1))]

    def only_in_turn(work, generators):
        def fail():
            metrics = work()
            if branches._are_made and torch.cuda.is_current_stream_capturing():
                float(metrics["actor_loss"])  # which a stream refuses while it is recorded
            return metrics

        return record(fail, generators)

    monkeypatch.setattr(replay, "record_graph", only_in_turn)
    runs.append(make_epoch(other, Windows(2), torch.Generator(GPU).manual_seed(1)))
    assert runs[0].cuda_graph == "on"
    assert runs[1].cuda_graph.startswith("partly off: ")
    for epoch in range(EPOCHS):
        for run in runs:
            run(epoch / EPOCHS)
    assert step_difference(other, learner, before) < 0.01


def test_what_a_recording_reads_lives_as_long_as_it_does():
    windows, learner = Windows(2), make_learner("baseline").to(GPU)
    epoch = make_epoch(learner, windows, torch.Generator(GPU).manual_seed(1))
    seen = weakref.ref(windows)
    del windows
    gc.collect()
    assert seen() is not None
    del epoch
    gc.collect()
    assert seen() is None


def test_recording_that_fails_leaves_training_as_it_was(caplog):
    plain = make_learner("baseline").to(GPU)
    learner = copy.deepcopy(plain)
    losses = []
    for one, waits in ((plain, False), (learner, True)):
        windows, noise = Windows(2), torch.Generator(GPU).manual_seed(1)

        def work(one=one, windows=windows, noise=noise, waits=waits):
            metrics = one.run_epoch(windows.sample, noise)
            if waits:
                float(metrics["actor_loss"])
            return metrics

        generators = [noise, windows.generator]
        tensors, adams = [*one.parameters(), *one.buffers()], list(one.optimizers.values())
        given = (work, adams, tensors, generators, [replay.record_graph])
        run = replay.replayed(*given).run if waits else work
        for _ in range(3):
            one.set_schedules(0.0)
            losses.append(run()["actor_loss"])
    (message,) = [r.getMessage() for r in caplog.records if "cuda_graph" in r.getMessage()]
    assert message.startswith("cuda_graph=off: ")
    assert_close(losses[3:], losses[:3], rtol=1e-4, atol=1e-5)


def test_memory_does_not_grow_with_the_epochs():
    epoch = make_epoch(
        make_learner("fullflow").to(GPU), Windows(2), torch.Generator(GPU).manual_seed(1), True
    )
    for _ in range(3):
        epoch(0.5)
    gc.collect()
    before = torch.cuda.memory_allocated()
    for _ in range(200):
        epoch(0.5)
    assert torch.cuda.memory_allocated() == before


def test_kernels_for_the_gpu_can_be_compiled():
    assert reason_against(GPU) == ""


@pytest.mark.parametrize("fidelity", ["corrected", "published"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_kernels_agree_with_torch(variant, fidelity):
    learner = make_learner(variant, fidelity=fidelity, **UNEVEN).to(GPU)
    for check in agreement.checks(learner, learner.optimizers.values()).values():
        check()


@pytest.mark.parametrize("variant", VARIANTS)
def test_errors_of_predictions_are_those_of_a_cpu(variant):
    learner, draws = make_learner(variant, **UNEVEN), torch.Generator().manual_seed(0)
    last = learner.world_model.reward_head[-1]
    torch.nn.init.normal_(last.weight, generator=draws)  # a new one is zero
    obs_BO = torch.randn(30, MAX_OBS_DIM, generator=draws)
    a_HBA = torch.randn(4, 30, MAX_ACTION_DIM, generator=draws).tanh()
    windows = predictions.Windows(obs_BO, a_HBA, torch.rand(4, 30, generator=draws))
    expected = predictions.measure_errors(learner, windows)
    compile_networks(learner.to(GPU), [])
    assert predictions.measure_errors(learner, windows) == pytest.approx(expected, rel=1e-4)

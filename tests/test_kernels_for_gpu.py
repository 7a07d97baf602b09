"""The kernels for a GPU, on a CPU by Triton's interpreter; skipped where Triton is not installed.

In processes of their own: Triton reads how it is to run when it is imported.
"""

import importlib.util
import os
import subprocess
import sys

import pytest

from pwmray.models import ode

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="no Triton")

# Every tensor claims to be on a GPU, so that a learner takes the path that it takes there.
PROGRAM = """
import copy, sys
import torch
torch.Tensor.is_cuda = property(lambda self: True)
torch.Tensor.is_cpu = property(lambda self: False)
from pwmray.algorithm import agreement, compiling, replay
from tests.learners import UNEVEN, make_learner, step_difference, windows
from pwmray.kernels import adam_gpu, norms_gpu
norms_gpu._NARROW = (1024, 4, 792)  # many rows a program: the interpreter takes one at a time
steps, step = [], adam_gpu.step
adam_gpu.step = lambda *given: steps.append(1) or step(*given)
plain = make_learner(sys.argv[1], **UNEVEN)
agreement._LEADING = (3, 32)
for check in agreement.checks(plain, plain.optimizers.values()).values():
    check()
ours, before = copy.deepcopy(plain), copy.deepcopy(plain)
compiling.compile_networks(ours, ours.optimizers.values())
replay.prepare_rates(ours.optimizers.values(), torch.device("cpu"))
draws = [torch.Generator().manual_seed(1) for _ in range(2)]
samples = [windows(5), windows(5)]
for epoch in range(2):
    for learner, sample, own in zip((ours, plain), samples, draws):
        learner.update(sample, own, epoch / 2)
assert steps
print(step_difference(ours, plain, before))
"""


# Steps that leave copies of three weights behind, steps that leave none, and those of torch. The
# first gradients are as small as the epsilon of clipping; the programs that add up squares have two
# turns.
STEP = """
import torch
from torch.testing import assert_close
from pwmray.kernels import adam, adam_gpu
draws = torch.Generator().manual_seed(0)
parts = [torch.rand(size, generator=draws) for size in [(3, 70, 11), (5,), (1025,), (530_000,)]]
theirs = [torch.nn.Parameter(p.clone()) for p in parts]
reference = torch.optim.Adam(theirs, 1e-2, (0.7, 0.95))
zeros = lambda: tuple(torch.zeros_like(p) for p in parts)
steps = tuple(torch.zeros(()) for _ in parts)
tensors = adam.Tensors(tuple(parts), zeros(), zeros(), zeros(), steps)
group = {"lr": torch.tensor(1e-2), "betas": (0.7, 0.95), "eps": 1e-8}
copies = [torch.empty_like(p, dtype=torch.bfloat16) for p in parts]
copies[1] = None
again = adam.Tensors(*(tuple(t.clone() for t in part) for part in tensors))
for size, clip in [(1e-9, 1e-7), (1.0, 1.0)]:
    for g, h, p in zip(tensors.gradients, again.gradients, theirs):
        p.grad = g.copy_(h.copy_(size * torch.randn(g.shape, generator=draws))).clone()
    norm = adam_gpu.step(tensors, copies, group, clip)
    adam_gpu.step(again, [None] * 4, group, clip)
    assert_close(norm, torch.nn.utils.clip_grad_norm_(theirs, clip), rtol=1e-4, atol=0)
    reference.step()
    for i, p in enumerate(theirs):
        assert_close(parts[i], p.detach(), rtol=0, atol=1e-6)
        for part, name in zip(tensors[2:], adam.MOMENTS):
            exact = reference.state[p][name]
            assert_close(part[i], exact, rtol=0, atol=1e-4 * exact.abs().max().item())
        # A GPU rounds to the nearest; the interpreter cuts off.
        q, copied = parts[i], copies[i]
        assert q.equal(again.parameters[i])
        assert copied is None or ((copied.float() - q).abs() <= q.abs() / 128).all()
"""


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["baseline", "fullflow"])
def test_updates_by_kernels_for_a_gpu_are_the_plain_ones(variant):
    assert float(interpret(PROGRAM, variant)) < 1e-5


# The norms, values and their fit, by programs of several turns whose rows and columns are not
# all there. A row with what is not finite, or whose squares overflow, becomes that; large entries
# are exact.
NORMS = """
import torch
torch.Tensor.is_cuda = property(lambda self: True)
from torch.testing import assert_close
from pwmray.kernels import norms, norms_gpu
from tests.plain_norms import KINDS, ROUNDING, check_norm, draw, gradients
norms_gpu._plan = lambda width: (4, 1, 6)
shape, second = (3, 10, 24), torch.arange(10) == 1
for kind in KINDS:
    for dtype in ROUNDING:
        check_norm(kind, draw(shape, dtype), dtype)
    for value in (float("nan"), float("inf"), 1e25):
        x, *affine = draw((1, 10, 24))
        x[0, 1, 3] = value
        y, (gx, *_) = gradients(lambda *given: norms.norm(kind, *given), [x, *affine])
        for found in (y, gx):
            assert not found[0, second].isfinite().any() and found[0, ~second].isfinite().all()
    x, bias, scale, shift = draw((1, 10, 24))
    shift[...] = torch.linspace(-85, 100, 24)[torch.arange(24) * 7 % 24]
    exact = KINDS[kind](x, 0 * scale, shift.double())
    assert_close(norms.norm(kind, x, bias, 0 * scale, shift).double(), exact, rtol=1e-5, atol=1e-34)
x[0, 1, 3] = 100.0
for kind in (norms.MISH_NORM, norms.NORM_MISH):
    check_norm(kind, [x, bias, scale, shift], torch.float32)
    check_norm(kind, [1e-3 * x, 0 * bias, scale, shift], torch.float32)  # epsilon counts
x, *affine = draw(shape)
_, weight, offset, target = draw(shape)
weight, offset, target = weight.mT.contiguous(), offset[..., :1].contiguous(), x[0, :, 0].sin()
given = [t.requires_grad_() for t in (x, *affine, weight, offset)]
values = KINDS[norms.MISH_NORM](x + affine[0], *affine[1:]) @ weight + offset
errors = (values.squeeze(-1) - target).square().mean(1)
expected = [errors, *torch.autograd.grad(errors.mean(), given, retain_graph=True)]
(along,) = torch.autograd.grad(values, x, target.expand(3, 10).unsqueeze(-1))
with torch.no_grad():
    found, moments = norms.value_forward(x, tuple(affine), weight, offset)
    assert_close(found, values.squeeze(-1), rtol=1e-4, atol=1e-4)
    found = norms.value_backward(target.repeat(3, 1), x, tuple(affine), weight, moments)
    assert_close(found, along, rtol=1e-4, atol=1e-5)
    parts = norms.value_fit(x, tuple(affine), weight, offset, target)
    assert len(parts) == 2
    errors, *found = norms.as_fit(norms.add_up([parts])[0], tuple(affine), weight, offset)
for one, other in zip([errors, x, *found], expected, strict=True):
    assert_close(one, other, rtol=0, atol=1e-5 * other.abs().max().item())
"""


# Sums of few rows, of more than a turn takes and of many, some added to a total; and rows made
# wider, narrower and more.
ROWS = """
import torch
from torch.testing import assert_close
from pwmray.kernels import rows_gpu
draws = torch.Generator().manual_seed(0)
for nums in [(1, 70, 300), (3, 1100)]:
    parts = [torch.rand(num, 3, 17, generator=draws) for num in nums]
    for found, part in zip(rows_gpu.add_all(parts), parts, strict=True):
        assert_close(found, part.sum(0))
    total = torch.rand(3, 17, generator=draws)
    expected = total + parts[-1].sum(0)
    assert_close(rows_gpu.add_rows(parts[-1], total), expected)
    assert_close(total, expected)
x = torch.rand(40, 31, generator=draws)
for shape in [(40, 31), (48, 40), (5, 40), (64, 24)]:
    exact, (num, width) = torch.zeros(shape), (min(a, b) for a, b in zip(x.shape, shape))
    exact[:num, :width] = x[:num, :width]
    assert rows_gpu.copy_rows(x, shape, torch.float32).equal(exact)
"""


# A step of a flow world model with each integrator, and its gradients: trained with an embedding of
# each row's own, then frozen with one of all. The last integrator does not begin at time 0.
FLOW = """
import copy, sys
import torch
torch.Tensor.is_cuda = property(lambda self: True)
torch.Tensor.is_cpu = property(lambda self: False)
from torch.testing import assert_close
from pwmray.algorithm.compiling import compile_networks
from pwmray.models import ode
from tests.learners import UNEVEN, make_learner
ode.INTEGRATORS["late"] = lambda velocity, x, tau, dt: x + dt * velocity(x, tau + dt / 2)
settings = {**UNEVEN, "world_model[flow].integrator": sys.argv[1]}
plain = make_learner("fullflow", **settings).world_model
draws = torch.Generator().manual_seed(0)
torch.nn.init.normal_(plain.velocity_head.weight, std=0.1, generator=draws)
ours = copy.deepcopy(plain)
compile_networks(ours, [])
z = torch.rand(5, plain.latent_dim, generator=draws)
a = torch.rand(2, 5, 6, generator=draws)
for is_trained, num_embeddings in ((True, 5), (False, 1)):
    e = torch.rand(num_embeddings, plain.config.task_dim, generator=draws)
    found = []
    for model in (ours, plain):
        model.requires_grad_(is_trained)
        leaves = [t.clone().requires_grad_() for t in (z, e, a)]
        x = leaves[0] * 1.0
        for a_BA in leaves[2]:
            x, given = model.next_and_given(x, z, leaves[1].expand(5, -1), a_BA)
        (x.square().sum() + given.sin().sum()).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append([x, given, *(leaf.grad for leaf in leaves), *gradients])
    assert len(found[0]) == len(found[1])
    for one, other in zip(*found):
        assert_close(one, other, rtol=0, atol=1e-5 * other.abs().max().item())
"""


# An MLP world model along actions, where one embedding is that of all rows and where it is not.
UNROLL = """
import copy
import torch
torch.Tensor.is_cuda = property(lambda self: True)
torch.Tensor.is_cpu = property(lambda self: False)
from torch.testing import assert_close
from pwmray.algorithm.compiling import compile_networks
from pwmray.kernels import unroll
from pwmray.precision import FLOAT32, autocast
from tests.learners import UNEVEN, make_learner
calls, by_kernels = [], unroll.unroll
unroll.unroll = lambda *given: calls.append(1) or by_kernels(*given)
plain = make_learner("baseline", **UNEVEN).world_model
draws = torch.Generator().manual_seed(0)
ours = copy.deepcopy(plain)
compile_networks(ours, [])
a, weight = torch.rand(3, 5, 6, generator=draws), torch.rand(2, 3, 5, 1, generator=draws)
for num_embeddings in (1, 5):
    z = torch.rand(5, plain.latent_dim, generator=draws)
    e = torch.rand(num_embeddings, plain.config.task_dim, generator=draws)
    found = []
    for model in (ours, plain):
        model.zero_grad()
        leaves = [t.clone().requires_grad_() for t in (z, e)]
        with autocast(FLOAT32, torch.device("cpu")):
            unrolled = model.unroll(leaves[0] * 1.0, leaves[1].expand(5, -1), a)
        (weight * torch.stack(unrolled)).square().sum().backward()
        gradients = [p.grad for p in model.dynamics.parameters()]
        found.append([*unrolled, *(leaf.grad for leaf in leaves), *gradients])
    for one, other in zip(*found):
        assert_close(one, other, rtol=0, atol=1e-5 * other.abs().max().item())
assert len(calls) == 2
"""


# The losses of latents and of rewards on both sides of, at and beyond the bins' ends; one is NaN.
LOSSES = """
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from pwmray.kernels import losses
from pwmray.models import two_hot
draws = torch.Generator().manual_seed(0)
r = 0.9 * torch.randn(3, 41, 1, generator=draws)
r[0, :4, 0] = torch.tensor([0.0, 1e3, -1e3, -1e-4])
logits = 3 * torch.randn(3, 41, 7, generator=draws)
logits[1, 5:9] *= 100  # beyond what e^x can be
z, target = (torch.rand(3, 41, 24, generator=draws) for _ in range(2))
plain = lambda z, target: F.mse_loss(z, target, reduction="none").mean(-1)
for ours, theirs, x, given in [
    (losses.cross_entropy, two_hot.cross_entropy, logits, (r, 2.0)),
    (losses.square_error, plain, z, (target,)),
]:
    found = []
    for loss in (ours, theirs):
        leaf = x.clone().requires_grad_()
        found.append([rows := loss(leaf, *given), *torch.autograd.grad(rows.square().sum(), leaf)])
    for one, other in zip(*found):
        assert_close(one, other, rtol=0, atol=1e-5 * other.abs().max().item())
r[1, 1] = logits[2, 2, 2] = z[1, 1, 0] = float("nan")
assert losses.cross_entropy(logits, r, 2.0).isnan().sum() == 2
assert losses.square_error(z, target).isnan().sum() == 1
"""


# Actions of both kinds of policies, of tasks with fewer than there are, noise at its floor; by an
# integrator of one's own that does not begin at time 0, too.
ACT = """
import copy
import torch
torch.Tensor.is_cuda = property(lambda self: True)
torch.Tensor.is_cpu = property(lambda self: False)
from torch.testing import assert_close
from pwmray.algorithm.compiling import compile_networks
from pwmray.models import ode
from tests.learners import UNEVEN, make_learner
draws = torch.Generator().manual_seed(0)
ode.INTEGRATORS["late"] = lambda velocity, x, tau, dt: x + dt * velocity(x, tau + dt / 2)
integrators = [{"policy[flow].integrator": name} for name in ode.INTEGRATORS]
for variant, kind in [("baseline", {}), *(("fullflow", kind) for kind in integrators)]:
    learner = make_learner(variant, **UNEVEN, **kind)
    plain = learner.policy
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=draws)
    torch.nn.init.uniform_(plain.log_std, -2.0, 1.0, generator=draws)
    ours = copy.deepcopy(plain)
    compile_networks(ours, [])
    z = torch.rand(3, 15, learner.world_model.latent_dim, generator=draws)
    noise = torch.randn(3, 15, 6, generator=draws)
    noise[0, :2] *= 1000  # far beyond what tanh tells from 1
    mask = (torch.arange(6) < 4).float()
    with torch.no_grad():
        found, expected = ours(z, noise, mask), plain(z, noise, mask)
    assert (found[..., 4:] == 0).all()
    assert_close(found, expected, rtol=0, atol=1e-5)
"""


# Every kernel of an epoch at paper scale, compiled for an H200 without one: its shapes alone are on
# torch's meta device.
COMPILE = """
import contextlib, sys
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction
from benchmarks.workload import Case, random_store
from pwmray.algorithm import agreement, compiling, replay
from pwmray.build import build_learner
from pwmray.data.sampler import WindowSampler
GPU, is_on, compiled, run = torch.device("meta"), [False], set(), JITFunction.run
class Driver:
    get_current_device = get_current_stream = lambda self, *given: 0
    get_current_target = lambda self: GPUTarget("cuda", 90, 32)
driver.set_active(Driver())
def compile_alone(self, *given, grid, warmup, **how):
    kernel = run(self, *given, grid=grid, warmup=True, **how)
    assert kernel.metadata.shared <= 227 * 1024, (self.__name__, kernel.metadata.shared)
    assert all(0 < size < 2**16 for size in grid[1:]) and 0 < grid[0] < 2**31, grid
    compiled.add(self.__name__)
JITFunction.run = compile_alone
@contextlib.contextmanager
def autocast(device_type, dtype=None, enabled=True):
    is_on.append(enabled)
    yield
    is_on.pop()
torch.autocast, torch.is_autocast_enabled = autocast, lambda _: is_on[-1]
torch.get_autocast_dtype = lambda _: torch.bfloat16
torch.Tensor.is_cuda = property(lambda self: self.device == GPU)
torch.Tensor.data_ptr = lambda self: 0
agreement.checks = lambda *_: {}
with GPU:
    learner = build_learner(Case("48", sys.argv[1], "finetuned", 512, 1, "bfloat16", 4).config)
optimizers = list(learner.optimizers.values())
assert compiling.compile_networks(learner, optimizers) == "on"
replay.prepare_rates(optimizers, GPU)
for optimizer in optimizers:
    for p in optimizer.param_groups[0]["params"]:
        moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[p] = {"step": torch.zeros((), device=GPU), **moments}
draws, store = torch.Generator(), random_store("reacher-easy", 4)
sampler = WindowSampler(store, learner.window_horizon, GPU, draws, place="memory")
learner.run_epoch(sampler.sample, draws)
print(*compiled)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "some"), [("baseline", "_square_error"), ("fullflow", "_advance")]
)
def test_kernels_at_paper_scale_compile_for_an_h200(variant, some):
    compiled = run(COMPILE, variant, TRITON_INTERPRET="0").split()
    assert {"_forward", "_fit", "_add_rows", "_adam", some} <= set(compiled)


@pytest.mark.slow
def test_actions_for_a_gpu_are_those_of_the_policy():
    interpret(ACT)


@pytest.mark.slow
@pytest.mark.parametrize("integrator", [*ode.INTEGRATORS, "late"])
def test_flow_for_a_gpu_is_the_one_call_by_call(integrator):
    interpret(FLOW, integrator)


@pytest.mark.slow
def test_steps_of_a_world_model_for_a_gpu_are_those_one_by_one():
    interpret(UNROLL)


@pytest.mark.slow
def test_norms_for_a_gpu_are_those_of_torch():
    interpret(NORMS)


@pytest.mark.slow
def test_sums_and_copies_of_rows_for_a_gpu_are_those_of_torch():
    interpret(ROWS)


@pytest.mark.slow
def test_losses_for_a_gpu_are_those_of_torch():
    interpret(LOSSES)


@pytest.mark.slow
def test_steps_for_a_gpu_are_those_of_torch_and_keep_copies_of_weights():
    interpret(STEP)


def interpret(program, *arguments):
    return run(program, *arguments, TRITON_INTERPRET="1")


def run(program, *arguments, **settings):
    environment = os.environ | settings | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

"""How products are computed: what each setting does, and that the rest stays float32."""

import contextlib

import pytest
import torch

from pwmray import precision
from pwmray.algorithm.compiling import compile_networks
from pwmray.config import TrialConfig
from pwmray.devices import set_up_torch
from pwmray.driver import connect
from pwmray.models.layers import Linear
from tests.learners import windows
from tests.tiny import SETTINGS

CPU = torch.device("cpu")
ROUNDED = "float32, of numbers of bfloat16 alone"


def make_config(**settings):
    trial = {"task": "reacher-easy", "seed": 3, "epochs": 1}
    return TrialConfig.from_flat({**SETTINGS, **trial, **settings})


def make_learner(matmul, **settings):
    from pwmray.build import build_learner

    return build_learner(make_config(**{"learner.matmul": matmul, **settings}))


def test_float32_on_a_cpu_is_float32():
    set_up_torch(CPU, 2, "float32")
    a, b = torch.randn(300, 700), torch.randn(700, 200)
    exact = a.double() @ b.double()
    assert ((a @ b) - exact).norm() / exact.norm() < 1e-6


def test_setting_that_would_lose_digits_is_not_taken(monkeypatch):
    monkeypatch.setattr(precision, "_FLOAT32_ERROR", 0.0)  # as if the probe's product were inexact
    set_up_torch(CPU, 2, "float32")
    assert torch.get_float32_matmul_precision() == "highest"


def test_setting_is_judged_by_a_product_that_is_made_under_it():
    found = []

    class Look(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function._schema.name == "aten::mm" and args[0].dtype == torch.float32:
                found.append(torch.get_float32_matmul_precision())
            return function(*args, **(kwargs or {}))

    with Look():
        precision._fastest_exact_on_cpu()
    assert found == ["medium"]


@pytest.mark.parametrize("num_rows, setting", [(64, "highest"), (1024, "medium")])
@pytest.mark.parametrize("has_added", [False, True])
def test_only_large_products_are_left_to_onednn(num_rows, setting, has_added, monkeypatch):
    torch.set_float32_matmul_precision("medium")
    a, b = torch.randn(num_rows, 96), torch.randn(96, 128)
    added, name = (torch.randn(num_rows, 128), "addmm") if has_added else (None, "mm")
    settings, multiply = [], getattr(torch, name)

    def look(*given, **named):
        settings.append(torch.get_float32_matmul_precision())
        return multiply(*given, **named)

    monkeypatch.setattr(torch, name, look)
    found = precision.multiply(a, b, added)
    assert settings == [setting]
    assert torch.get_float32_matmul_precision() == "medium"
    torch.set_float32_matmul_precision(setting)
    assert torch.equal(found, multiply(*(() if added is None else (added,)), a, b))


def test_product_is_torchs_own_where_onednn_was_not_chosen(monkeypatch):
    monkeypatch.setattr(torch, "set_float32_matmul_precision", None)  # nothing calls it
    a, b = torch.randn(4, 6), torch.randn(6, 5)
    assert torch.equal(precision.multiply(a, b), a @ b)


def test_tf32_on_a_cpu_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"learner.matmul is 'tf32', which a CPU lacks"):
        set_up_torch(CPU, 1, "tf32")


def test_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"'bfloat61'; did you mean 'bfloat16'.*float32, tf32"):
        make_config(**{"learner.matmul": "bfloat61"})


def test_it_is_part_of_the_fingerprint():
    assert make_config().fingerprint != make_config(**{"learner.matmul": "tf32"}).fingerprint


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_layer_gives_back_the_dtype_that_it_takes(dtype):
    layer, x = Linear(8, 4).to(dtype), torch.randn(3, 8, dtype=dtype)
    assert layer(x).dtype == dtype
    with precision.autocast("bfloat16", CPU):
        assert layer(x).dtype == dtype


def test_only_a_cpu_may_lack_products_of_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    asked = precision.has_bfloat16.__wrapped__
    assert [asked(torch.device(kind)) for kind in ("cpu", "cuda")] == [False, True]


@pytest.fixture
def cpu_without_bfloat16(monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)


def test_linear_layer_without_a_bias_rounds(cpu_without_bfloat16):
    with precision.autocast("bfloat16", CPU):
        assert is_rounded(Linear(8, 4, bias=False)(torch.randn(3, 8)))


def is_rounded(x):
    """Return whether a float32 tensor holds numbers of bfloat16 alone."""
    return bool((x == x.to(torch.bfloat16).to(x.dtype)).all())


def products_of(learner):
    """Return the dtypes, or ROUNDED, of what is multiplied in an epoch, with how often."""
    found = {}

    class Look(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function._schema.name in ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"):
                kind = args[-1].dtype
                if kind == torch.float32 and all(map(is_rounded, args)):
                    kind = ROUNDED
                found[kind] = found.get(kind, 0) + 1
            return function(*args, **(kwargs or {}))

    with Look():
        learner.update(windows(5), torch.Generator().manual_seed(0), 0.0)
    return found


@pytest.mark.parametrize("variant", ["baseline", "fullflow"])
def test_every_product_of_training_is_as_it_was_asked_for(variant):
    settings = {"variant": variant, "learner.wm_horizon": 3}
    exact = products_of(make_learner("float32", **settings))
    assert set(exact) == {torch.float32}
    rounded = products_of(make_learner("bfloat16", **settings))
    kind = torch.bfloat16 if precision.has_bfloat16(CPU) else ROUNDED
    assert rounded == {kind: exact[torch.float32]}


@pytest.mark.parametrize("variant", ["baseline", "fullflow"])
def test_cpu_without_bfloat16_multiplies_rounded_numbers(variant, cpu_without_bfloat16):
    settings = {"variant": variant, "learner.wm_horizon": 3}
    exact = products_of(make_learner("float32", **settings))
    rounded = products_of(make_learner("bfloat16", **settings))
    assert rounded == {ROUNDED: exact[torch.float32]}
    by_kernels = make_learner("bfloat16", **settings)
    compile_networks(by_kernels, by_kernels.optimizers.values())
    assert by_kernels.critics.uses_kernels
    assert set(products_of(by_kernels)) == {ROUNDED}


def test_rounded_product_is_that_of_bfloat16(cpu_without_bfloat16):
    x, layer = torch.randn(64, 96), Linear(96, 80)
    gy = torch.randn(64, 80)

    def run(context):
        given = x.clone().requires_grad_()
        with context:
            y = layer(given)
        return y.detach(), *torch.autograd.grad(y, (given, layer.weight, layer.bias), gy)

    ours = run(precision.autocast("bfloat16", CPU))
    theirs = run(torch.autocast("cpu", torch.bfloat16))
    exact = run(contextlib.nullcontext())
    for a, b, c in zip(ours, theirs, exact, strict=True):
        assert is_rounded(a)
        # They differ where sums of another order round to the neighbour.
        assert (a - b).norm() < 0.3 * (a - c).norm()


def test_bfloat16_leaves_weights_losses_and_moments_in_float32():
    learner = make_learner("bfloat16", **{"learner.wm_horizon": 3})
    metrics = learner.update(windows(5), torch.Generator().manual_seed(0), 0.0)
    states = [s for o in learner.optimizers.values() for s in o.state.values()]
    assert {p.dtype for p in learner.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in learner.parameters() if p.grad is not None} == {torch.float32}
    assert {s["exp_avg_sq"].dtype for s in states} == {torch.float32}
    assert {m.dtype for m in metrics.values()} == {torch.float32}


def test_bfloat16_changes_an_epoch_a_little():
    exact, rounded = make_learner("float32"), make_learner("bfloat16")
    for learner in (exact, rounded):
        learner.update(windows(5), torch.Generator().manual_seed(0), 0.0)
    moved = [
        (a - b).abs().max().item()
        for a, b in zip(exact.policy.parameters(), rounded.policy.parameters(), strict=True)
    ]
    assert 0 < max(moved) < 0.01


def test_sweep_with_tf32_is_refused_where_ray_has_no_gpu():
    with pytest.raises(ValueError, match=r"which a CPU lacks; valid: float32, bfloat16"):
        connect.check_matmuls({"float32", "tf32"}, {"CPU": 2.0})
    connect.check_matmuls({"float32", "tf32"}, {"CPU": 2.0, "GPU": 1.0})

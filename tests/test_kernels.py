"""The kernels against what torch computes in float64, and what is said where there are none."""

import copy
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from pwmray.algorithm import clipped_step
from pwmray.algorithm.clipped_step import Adam, clip_and_step
from pwmray.algorithm.replay import optimizer_tensors
from pwmray.kernels import build, norms
from pwmray.models.critic import CriticConfig, CriticEnsemble
from pwmray.models.layers import NormedLinear
from tests import small_disk
from tests.plain_norms import KINDS, ROUNDING, check_norm, draw, gradients, layer_norm

UNITS = [(12,), (16, 24), (24, 16, 8), (400, 200)]  # the last by two threads
SHAPES = [(3, 5, 24), (2, 700, 40), (1, 700, 40), (1, 20, 1096)]  # all but the first by two threads


@pytest.fixture
def two_threads(monkeypatch):
    """Give two threads to the kernels alone: torch's own would wait for each other."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_norm_and_its_gradients_are_those_of_torch(kind, shape, dtype, two_threads):
    check_norm(kind, draw(shape, dtype), dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so_and_in_its_row(kind, value):
    x, *affine = draw((1, 100, 24))
    x[0, 1, 3] = value
    y, (gx, *_) = gradients(lambda *given: norms.norm(kind, *given), [x, *affine])
    others = torch.arange(100) != 1
    for found in (y, gx):
        assert not found[0, 1].isfinite().any()
        assert found[0, others].isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_norm_of_no_rows_is_empty(kind):
    x, *affine = draw((2, 0, 16))
    y, (gx, *parameters) = gradients(lambda *given: norms.norm(kind, *given), [x, *affine])
    assert y.shape == gx.shape == x.shape
    assert not any(gradient.any() for gradient in parameters)


@pytest.mark.parametrize("kind", KINDS)
def test_row_whose_squares_overflow_is_not_finite(kind):
    """Finite itself: a diverged network's, which is not to look like zeros."""
    x, *affine = draw((1, 2, 16))
    x[0, 0] *= 1e25
    y = norms.norm(kind, x, *affine)
    assert not layer_norm(x[0, 0]).isfinite().any()
    assert not y[0, 0].isfinite().any()
    assert y[0, 1].isfinite().all()


@pytest.mark.parametrize("value", [-100.0, -1e10, -1e36])
def test_mish_of_what_is_far_below_is_zero_and_so_is_its_slope(value):
    x, *affine = draw((1, 2, 24))
    x[0, 0, 3] = value
    y, (gx, *_) = gradients(lambda *given: norms.norm(norms.MISH_NORM, *given), [x, *affine])
    exact, _ = gradients(
        lambda x, bias, scale, shift: KINDS[norms.MISH_NORM](x + bias, scale, shift),
        [tensor.double() for tensor in (x, *affine)],
    )
    assert_close(y, exact, rtol=0, atol=1e-5, check_dtype=False)
    assert gx.isfinite().all()
    assert gx[0, 0, 3] == 0


def put_through(kind, values, dtype=torch.float32):
    """Return what a norm of x makes of values [N, U] behind it: what x adds to them is 0 times."""
    x, *_ = draw((1, *values.shape), dtype)
    x, (bias, scale) = x.transpose(0, 1), torch.zeros(2, len(values), 1, values.shape[1])
    given = (x.contiguous(), bias, scale, values.unsqueeze(1))
    y, gradients_of = gradients(lambda *given: norms.norm(kind, *given), given)
    return y.squeeze(1), gradients_of[-1].squeeze(1)


def test_mish_and_its_slope_are_exact_from_small_values_to_large_ones():
    values = torch.cat([torch.linspace(-80, 100, 2388), 10.0 ** torch.arange(-4, 8)]).view(100, 24)
    found = put_through(norms.NORM_MISH, values)
    expected = gradients(F.mish, [values.double().unsqueeze(1)])
    assert_close(found[0], expected[0].squeeze(1), rtol=1e-6, atol=0, check_dtype=False)
    slope = expected[1][0].squeeze(1)
    assert_close(found[1], slope, rtol=0, atol=1e-6, check_dtype=False)


def test_small_shares_of_a_simplex_are_exact_and_those_far_below_are_none():
    draws = torch.Generator().manual_seed(0)
    values = -75 * torch.rand(100, 3, 8, generator=draws)
    values[..., 0], values[::2, :, 1], values[::2, :, 2] = 0, -200, -1e10
    found, _ = put_through(norms.NORM_SIMPLEX, values.flatten(1))
    exact = values.double().softmax(-1).flatten(1)
    assert_close(found, exact, rtol=1e-6, atol=1e-34, check_dtype=False)


def test_what_is_stored_in_bfloat16_is_rounded_to_the_nearest_and_ties_to_even():
    halfway = torch.tensor([0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0x7F7F8000, 0x7F7F7FFF])
    values = torch.cat([halfway.int().view(torch.float32), torch.linspace(-3, 3, 18)]).expand(4, 24)
    found, _ = put_through(norms.MISH_NORM, values.contiguous(), torch.bfloat16)
    assert_close(found, values.bfloat16(), rtol=0, atol=0)


def test_parameter_that_is_not_finite_shows_in_the_latents():
    x, bias, scale, shift = draw((1, 2, 16))
    scale[0, 0, 3] = float("nan")
    assert not norms.norm(norms.NORM_SIMPLEX, x, bias, scale, shift).isfinite().any()


def make_critics(units):
    """Critics by kernels, and the same as they are written; every parameter counts."""
    config = CriticConfig(units=units, num_critics=3)
    draws = torch.Generator().manual_seed(0)
    plain = CriticEnsemble(config, 10, draws)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=draws)
    ours = copy.deepcopy(plain)
    ours.uses_kernels = True
    return ours, plain


def latents_and_targets():
    draws = torch.Generator().manual_seed(1)
    return torch.randn(150, 10, generator=draws), torch.randn(150, generator=draws)


@pytest.mark.parametrize("units", UNITS)
def test_values_and_the_gradient_of_latents_are_those_of_torch(units, two_threads):
    z, _ = latents_and_targets()
    found = []
    for critics in make_critics(units):
        leaf = z.clone().requires_grad_()
        values = critics.requires_grad_(False)(leaf)
        (values * torch.linspace(-1, 1, 450).view(3, 150)).sum().backward()
        found.append((values, leaf.grad))
    assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("units", UNITS)
def test_error_and_its_gradients_are_those_of_torch(units, two_threads):
    ours, plain = make_critics(units)
    found, expected = (c.differentiate_error(*latents_and_targets()) for c in (ours, plain))
    assert_close(found, expected)
    for (name, a), b in zip(ours.named_parameters(), plain.parameters(), strict=True):
        assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
        assert a.grad.is_contiguous(), name  # or torch's fused Adam would misread it


def test_values_that_train_critics_have_the_gradients_of_all_parameters():
    ours, plain = make_critics((12,))
    z, _ = latents_and_targets()
    for critics in (ours, plain):
        critics(z).square().sum().backward()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert_close(a.grad, b.grad)


@pytest.mark.parametrize("units", UNITS)
def test_critics_in_bfloat16_are_those_of_float32_up_to_rounding(units):
    ours, plain = make_critics(units)
    z, y = latents_and_targets()
    with torch.no_grad():
        expected = plain(z)
        with torch.autocast("cpu", torch.bfloat16):
            values = ours(z)
    assert values.dtype == torch.float32
    assert 0 < (values - expected).abs().max() < 0.03 * expected.abs().max()
    plain.differentiate_error(z, y)
    with torch.autocast("cpu", torch.bfloat16):
        ours.differentiate_error(z, y)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert a.grad.dtype == torch.float32
        assert_close(a.grad, b.grad, rtol=0, atol=0.03 * b.grad.abs().max().item())


def test_target_that_is_not_finite_shows_in_every_gradient():
    ours, _ = make_critics((12, 8))
    z, y = latents_and_targets()
    y[7] = float("nan")
    assert ours.differentiate_error(z, y).isnan().all()
    assert all(parameter.grad.isnan().any() for parameter in ours.parameters())


SIZES = [(3, 70, 11), (5,), (1,), (4097,), (300, 1000)]


def make_steppers():
    """Two optimizers of the same weights: ours by kernels, and torch's own."""
    weights = [torch.ones(size) for size in SIZES]
    ours, theirs = ([torch.nn.Parameter(w.clone()) for w in weights] for _ in range(2))
    mine = Adam(ours, 1e-2, (0.7, 0.95))
    mine.uses_kernels = True
    return mine, ours, torch.optim.Adam(theirs, 1e-2, (0.7, 0.95), fused=True), theirs


def test_clipped_step_of_adam_is_that_of_torch(two_threads):
    mine, ours, reference, theirs = make_steppers()
    draws = torch.Generator().manual_seed(0)
    for i in range(10):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = 10.0 ** (i - 4) * torch.randn(p.shape, generator=draws)
            q.grad = p.grad.clone()
        norm = clip_and_step(mine, 1.0)
        assert_close(norm, torch.nn.utils.clip_grad_norm_(theirs, 1.0), rtol=1e-5, atol=0)
        reference.step()
        for p, q in zip(ours, theirs, strict=True):
            assert_close(p, q, rtol=1e-5, atol=1e-6)
    found, expected = (optimizer_tensors([o]) for o in (mine, reference))
    assert len(found) == 3 * len(SIZES)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-7)
    assert (ours[0] - 1).abs().max() > 1e-2


def test_gradients_as_small_as_the_epsilon_of_clipping_are_clipped_as_by_torch():
    mine, ours, *_ = make_steppers()
    for _ in range(2):  # torch takes the first
        for p in ours:
            p.grad = torch.full_like(p, 1e-9)
        expected = [p.grad.clone() for p in ours]
        clip_and_step(mine, 1e-7)
    for p, g in zip(ours, expected, strict=True):
        p.grad = g
    torch.nn.utils.clip_grad_norm_(ours, 1e-7)
    for p in ours:
        assert_close(mine.state[p]["exp_avg"], (1 - 0.7**2) * p.grad, rtol=1e-3, atol=0)


def test_parameter_without_a_gradient_is_left_where_it_is_and_the_others_step():
    optimizer, parameters, *_ = make_steppers()
    for p in parameters:
        p.grad = torch.ones_like(p)
    clip_and_step(optimizer, 1.0)
    before, parameters[0].grad = [p.detach().clone() for p in parameters], None
    clip_and_step(optimizer, 1.0)
    stayed = [torch.equal(p, q) for p, q in zip(parameters, before, strict=True)]
    assert stayed == [True] + [False] * (len(SIZES) - 1)


class OnGpu(torch.Tensor):
    """A parameter that claims to be on a GPU."""

    device = torch.device("cuda")


@pytest.mark.parametrize(
    ("uses_kernels", "rate", "expected"),
    [(True, torch.tensor(0.1), True), (True, 0.1, False), (False, torch.tensor(0.1), False)],
)
def test_step_on_a_gpu_is_by_kernels_if_it_is_recorded_and_they_are_wanted(
    uses_kernels, rate, expected
):
    group = {"params": [torch.ones(3).as_subclass(OnGpu)], "lr": rate}
    optimizer = SimpleNamespace(param_groups=[group], uses_kernels=uses_kernels)
    assert clipped_step._wants_kernels(optimizer) is expected


@pytest.mark.parametrize("uses_kernels", [True, False])
def test_copies_of_weights_follow_a_step(uses_kernels):
    optimizer, parameters, *_ = make_steppers()
    optimizer.uses_kernels = uses_kernels
    copies = {p: p.detach().bfloat16() for p in parameters[::2]}
    places = [copy.data_ptr() for copy in copies.values()]
    for _ in range(2):  # torch takes the first
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
        clip_and_step(optimizer, 1.0, copies)
        for p, copied in copies.items():
            assert_close(copied, p.detach().bfloat16(), rtol=0, atol=0)
            assert (copied != 1).any()
    assert [copied.data_ptr() for copied in copies.values()] == places


def test_minibatches_of_critics_in_bfloat16_see_the_weights_as_they_are():
    """As if each rounded them anew."""
    found = []
    for keeps in (True, False):
        critics, _ = make_critics((12, 8))
        optimizer = Adam(critics.parameters(), 1e-2, (0.7, 0.95))
        optimizer.uses_kernels = True
        with torch.autocast("cpu", torch.bfloat16):
            copies = critics.copy_weights() if keeps else None
            for _ in range(4):
                critics.differentiate_error(*latents_and_targets(), copies)
                clip_and_step(optimizer, 1.0, copies)
        assert copies is None or len(copies) == 2
        found.append(list(critics.parameters()))
    for a, b in zip(*found, strict=True):
        assert_close(a, b, rtol=0, atol=0)


def test_step_on_a_gradient_that_is_not_finite_shows_in_every_weight():
    mine, ours, *_ = make_steppers()
    for bad in (False, True):  # torch takes the first
        for p in ours:
            p.grad = torch.ones_like(p)
        if bad:
            ours[1].grad[2] = float("nan")
        norm = clip_and_step(mine, 1.0)
    assert norm.isnan()
    assert all(p.isnan().all() for p in ours)


def test_layer_with_another_nonlinearity_runs_as_it_is_written():
    layer = NormedLinear(6, 8, torch.nn.Tanh())
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    expected = layer(x)
    layer.uses_kernels = True
    assert_close(layer(x), expected, rtol=0, atol=0)


def test_machine_without_a_compiler_is_told_where_one_was_looked_for(monkeypatch, built_anew):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        OSError, match=r"no C\+\+ compiler: CXX is not set, and none of c\+\+, g\+\+"
    ):
        build.load()


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A compiler that writes a line for each library it makes of one small source.

    Gives the file of lines.
    """
    source = tmp_path / "one.cpp"
    source.write_text('extern "C" int one() { return 1; }\n')
    monkeypatch.setattr(build, "SOURCES", [str(source)])
    made, program = tmp_path / "made", tmp_path / "compiler"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] || echo >>{made}\nexec c++ "$@"\n')
    program.chmod(0o700)
    made.touch()
    monkeypatch.setenv("CXX", str(program))
    return made


def check_loading():
    build.load.cache_clear()
    assert build.load().one() == 1


def test_kernels_are_compiled_once_for_all_processes(compiler, built_anew, monkeypatch):
    for _ in range(3):
        check_loading()
    assert compiler.read_text() == "\n"
    (kept,) = built_anew.iterdir()
    assert (built_anew.stat().st_mode & 0o777, kept.stat().st_mode & 0o777) == (0o700, 0o600)

    source = Path(build.SOURCES[0])
    moved = source.rename(source.with_name("moved.cpp"))  # as in another copy of the project
    monkeypatch.setattr(build, "SOURCES", [str(moved)])
    check_loading()
    assert compiler.read_text() == "\n"

    with open(moved, "a") as file:
        file.write("// another\n")
    check_loading()
    assert compiler.read_text() == "\n\n"
    assert len(list(built_anew.iterdir())) == 2


def test_kernels_of_another_cpu_or_compiler_are_not_taken(compiler, built_anew, monkeypatch):
    """A home may be that of several machines, and foreign instructions would end a trial."""
    cores, program = built_anew.parent / "cpuinfo", Path(os.environ["CXX"])
    cores.parent.mkdir()
    monkeypatch.setattr(build, "_CPU", cores)

    def load_on(flags, speed):
        cores.write_text(f"cpu MHz\t: {speed}\nflags\t\t: {flags}\n\nflags\t\t: none\n")
        check_loading()
        return compiler.read_text().count("\n")

    assert [load_on("avx2", 2000), load_on("avx2", 3500)] == [1, 1]
    assert load_on("avx2 avx512f", 3500) == 2
    program.write_text(program.read_text().replace("#!/bin/sh\n", "#!/bin/sh\necho another\n"))
    assert [load_on("avx2 avx512f", 3500), load_on("avx2", 3500)] == [3, 4]


DAMAGES = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "second half zeros": lambda content: content[: len(content) // 2].ljust(len(content), b"\0"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_kept_kernels_that_are_damaged_are_compiled_again(damage, compiler, built_anew):
    build.load()
    (kept,) = built_anew.iterdir()
    content = kept.read_bytes()
    kept.unlink()  # the mapped file must not change
    kept.touch(0o600)
    kept.write_bytes(DAMAGES[damage](content))
    check_loading()
    assert compiler.read_text() == "\n\n"
    assert kept.read_bytes()[:1000] == content[:1000]


@pytest.mark.parametrize("place", ["library", "folder"])
def test_kept_kernels_that_others_may_write_are_compiled_again_and_then_ours(
    place, compiler, built_anew
):
    build.load()
    (kept,) = built_anew.iterdir()
    (kept if place == "library" else built_anew).chmod(0o775)
    for _ in range(2):
        check_loading()
    assert compiler.read_text() == "\n\n"
    assert not (kept.stat().st_mode | built_anew.stat().st_mode) & 0o022


def test_kernels_are_not_kept_in_a_folder_of_another_user(
    compiler, built_anew, monkeypatch, caplog
):
    monkeypatch.setattr(build.os, "getuid", lambda: -1)
    check_loading()
    assert caplog.messages == [
        f"kernels are compiled by every process: {built_anew} is another user's"
    ]
    assert not list(built_anew.iterdir())


def test_kernels_need_no_place_for_temporary_files(compiler, built_anew, monkeypatch):
    """Nothing may be executed from it, on many a cluster."""
    monkeypatch.setattr(build.tempfile, "tempdir", "/nowhere")
    check_loading()


def test_kernels_that_cannot_be_kept_are_compiled_all_the_same(compiler, built_anew):
    built_anew.parent.touch()  # a file where the folder would be
    for _ in range(2):
        check_loading()
    assert compiler.read_text() == "\n\n"


def test_kernels_without_room_to_be_kept_are_compiled_all_the_same(compiler, built_anew):
    small_disk.mount(built_anew.parent, 1 << 16)
    try:
        check_loading()
    finally:
        small_disk.unmount(built_anew.parent)
    assert compiler.read_text() == "\n"


REFUSALS = {  # what a compiler is given that it refuses, and what it says then
    "no OpenMP": {"-fopenmp": "clang: error: unsupported option '-fopenmp'"},
    "no header": {"-fopenmp": "norms.cpp:14:10: fatal error: 'omp.h' file not found"},
    "no library": {"-fopenmp": "/usr/bin/ld: cannot find -lomp: No such file or directory"},
    "not its CPU": {"-march=native": "the clang compiler does not support '-march=native'"},
    "neither": {
        "-march=native": "error: unsupported argument 'native' to option '-march='",
        "-fopenmp": "ld: library not found for -lgomp",
    },
}


@pytest.mark.parametrize("lacks", REFUSALS)
def test_compiler_does_without_what_it_lacks(lacks, compiler, built_anew, tmp_path, monkeypatch):
    refused = [
        f'{option}) echo "{said}" >&2; exit 1 ;;' for option, said in REFUSALS[lacks].items()
    ]
    program = tmp_path / "lacking"
    program.write_text(
        "\n".join(["#!/bin/sh", "for given; do case $given in", *refused, "esac; done"])
        + f'\nexec {tmp_path}/compiler "$@"\n'
    )
    program.chmod(0o700)
    monkeypatch.setenv("CXX", str(program))
    for _ in range(2):
        check_loading()
    assert compiler.read_text() == "\n"


def test_kernels_are_compiled_without_openmps_header(tmp_path):
    command = [*build.find_compiler().split(), "-std=c++17", "-fsyntax-only", "-Werror"]
    (tmp_path / "omp.h").write_text("#error not without OpenMP\n")
    subprocess.run([*command, "-I", tmp_path, *build.SOURCES], check=True)


def test_compiler_that_fails_is_run_once(tmp_path, monkeypatch, built_anew):
    made, program = tmp_path / "made", tmp_path / "compiler"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] || echo >>{made}\nexit 1\n')
    program.chmod(0o700)
    monkeypatch.setenv("CXX", str(program))
    with pytest.raises(OSError, match="ended with 1"):
        build.load()
    assert made.read_text() == "\n"


def test_compiler_that_fails_is_quoted(monkeypatch, built_anew):
    monkeypatch.setenv("CXX", "ls")
    with pytest.raises(OSError, match=r"ls ended with 2: .*option"):
        build.load()


def test_compiler_that_answers_in_another_encoding_is_quoted(tmp_path, monkeypatch, built_anew):
    program = tmp_path / "compiler"
    program.write_bytes(b"#!/bin/sh\necho 'erreur : op\xe9rande' >&2\nexit 1\n")
    program.chmod(0o700)
    monkeypatch.setenv("CXX", str(program))
    with pytest.raises(OSError, match="ended with 1: erreur : op\ufffdrande"):
        build.load()

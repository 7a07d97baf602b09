"""Check that kernels compute here what torch does: devices, compilers and drivers differ.

Shapes: B rows, O observation, A action, L latent; each has two leading dimensions, H and B.
"""

import contextlib
import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pwmray.algorithm.returns import td_lambda
from pwmray.kernels import adam
from pwmray.models import CriticEnsemble, Policy, WorldModel
from pwmray.models.layers import use_kernels
from pwmray.precision import FLOAT32, autocast
from pwmray.seeding import generator
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM

_Normal = Callable[..., Tensor]  # numbers of a shape, on the device
_Compute = Callable[[], dict[str, Tensor]]  # values and gradients by name

_LEADING = (2, 512)  # as many rows as make a program take several, one after the other
_TOLERANCE = 0.01  # of a tensor's norm; rounding is off by 1e-5
_CLIP = 0.5


def checks(
    module: nn.Module, optimizers: Iterable[torch.optim.Optimizer]
) -> dict[Any, Callable[[], None]]:
    """Return how to check each part of `module` that uses kernels by itself, and each optimizer.

    Parts are world models, policies and critics. A check raises RuntimeError for the first value
    or gradient that differs by more than rounding. It compares copies with random weights: those
    that a trial starts from make a flow stand still.
    """
    latent_dim = next(part.latent_dim for part in module.modules() if isinstance(part, WorldModel))
    parts = [p for p in module.modules() if isinstance(p, WorldModel | Policy | CriticEnsemble)]
    of_parts = {part: functools.partial(_check_part, part, latent_dim) for part in parts}
    return of_parts | {o: functools.partial(_check_step, o) for o in optimizers}


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    """Have torch multiply float32 exactly: rounding may push an entry over a clamp's edge."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@_exact_products()
def _check_part(part: WorldModel | Policy | CriticEnsemble, latent_dim: int) -> None:
    part = copy.deepcopy(part)
    normal = _normal_on(next(part.parameters()).device)
    with torch.no_grad():
        for parameter in part.parameters():
            numbers = normal(parameter.shape)
            is_matrix = parameter.ndim > 1
            parameter.copy_(numbers / parameter.shape[-1] ** 0.5 if is_matrix else 1 + numbers / 10)
    if isinstance(part, WorldModel):
        compute = _of_world_model(part, normal)
    elif isinstance(part, Policy):
        compute = _of_policy(part, latent_dim, normal)
    else:
        compute = _of_critics(part, latent_dim, normal)
    use_kernels(part, True)
    ours = compute()
    use_kernels(part, False)
    theirs = compute()
    _compare(type(part).__name__, ours, theirs)


def _check_step(optimizer: torch.optim.Optimizer) -> None:
    """Compare a step with torch's, and the copies of weights that it leaves with these."""
    shapes = [parameter.shape for parameter in optimizer.param_groups[0]["params"]]
    found = [_step(optimizer, shapes, by_kernels) for by_kernels in (True, False)]
    _compare(f"{type(optimizer).__name__} of {len(shapes)} parameters", *found)


def _step(
    optimizer: torch.optim.Optimizer, shapes: Sequence[torch.Size], by_kernels: bool
) -> dict[str, Tensor]:
    """Take two steps from random weights, the first of which makes the moments; return all."""
    (group,) = optimizer.param_groups
    normal = _normal_on(group["params"][0].device)
    parameters = [nn.Parameter(normal(shape)) for shape in shapes]
    # As large as the weights, beside which a wrong step is to be seen.
    rate = torch.ones((), device=parameters[0].device)
    again = type(optimizer)(parameters, lr=rate, betas=group["betas"])  # type: ignore
    matrices = [p for p in parameters if p.ndim > 2]  # the critics': of others there are none
    copies: dict[Tensor, Tensor] = {p: p.detach().to(torch.bfloat16) for p in matrices}
    for is_first in (True, False):
        for p in parameters:
            p.grad = normal(p.shape)
        if by_kernels and not is_first:
            norm = adam.step(again, _CLIP, copies)
        else:
            norm = nn.utils.clip_grad_norm_(parameters, _CLIP)
            again.step()
            adam.follow(copies)
    kinds = {"parameter": parameters, "copy of a parameter": list(copies.values())}
    kinds |= {name: [again.state[p][name] for p in parameters] for name in adam.MOMENTS}
    named = {f"{kind} {i}": t.detach() for kind, ts in kinds.items() for i, t in enumerate(ts)}
    return named | {"norm": norm}


def _normal_on(device: torch.device) -> _Normal:
    draws = generator(0, "agreement", device)
    return functools.partial(torch.randn, generator=draws, device=device)


def _compare(name: str, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for what in ours | theirs:
        where = f"{name}: {what}"
        if what not in ours or what not in theirs:
            raise RuntimeError(f"{where} exists only by kernels, or only by torch")
        difference = _difference(ours[what], theirs[what])
        if not difference <= _TOLERANCE:  # nor is NaN
            raise RuntimeError(f"{where} by kernels is off by {difference:.1e}")


def _difference(ours: Tensor, theirs: Tensor) -> float:
    scale = theirs.norm().clamp(min=1e-6 * theirs.numel() ** 0.5)
    return float((ours - theirs).norm() / scale)


def _of_world_model(model: WorldModel, normal: _Normal) -> _Compute:
    obs, a = normal(*_LEADING, MAX_OBS_DIM), normal(*_LEADING, MAX_ACTION_DIM).tanh()
    weight, tau = normal(*_LEADING, model.latent_dim), normal(*_LEADING, 1).sigmoid()
    task = torch.zeros((), dtype=torch.long, device=obs.device)

    def compute() -> dict[str, Tensor]:
        found = {}
        for how, is_trained in (("", True), (" of a frozen model", False)):
            model.requires_grad_(is_trained)
            with autocast(FLOAT32, obs.device):  # within which a step shares what the next ones use
                e, leaf = model.embed(task).expand(*_LEADING, -1), a.clone().requires_grad_()
                z = model.encode(obs, e)
                start = z.detach().requires_grad_()
                next_z = model.next(model.next(start, e, leaf), e, leaf)
                reward = model.reward(next_z, e, leaf)
                logits = model.reward_logits(z, e, leaf)
                loss = model.reward_loss(logits, 3 * tau)
                # Of a mean over L little would be seen beside the others.
                consistency = model.latent_dim * model.consistency_loss(next_z, start.detach())
                matching = model.matching_loss(start, e, leaf, z.detach().roll(1, 0), tau)
                unrolled = torch.stack(model.unroll(start[0], e[0], a))
            found |= {f"next{how}": next_z.detach(), f"reward{how}": reward.detach()}
            found |= {f"unrolled{how}": unrolled.detach(), f"reward loss{how}": loss.detach()}
            found[f"consistency loss{how}"] = consistency.detach()
            total = ((z + next_z + unrolled) * weight).sum() + reward.sum() + loss.sum()
            total = total + consistency.sum()
            total = total if matching is None else total + matching.sum()
            gradients = _gradients(total, model, start, leaf)
            found |= {f"{name}{how}": gradient for name, gradient in gradients.items()}
        return found

    return compute


def _of_policy(policy: Policy, latent_dim: int, normal: _Normal) -> _Compute:
    z, noise = normal(*_LEADING, latent_dim), normal(*_LEADING, MAX_ACTION_DIM)
    mask = (torch.arange(MAX_ACTION_DIM, device=z.device) < MAX_ACTION_DIM - 1).float()

    def compute() -> dict[str, Tensor]:
        with autocast(FLOAT32, z.device):
            actions = policy.sample(z, noise, mask)[0]
            with torch.no_grad():
                acted = policy(z, noise, mask)
        found = {"action": actions.detach(), "action without gradients": acted}
        return found | _gradients(actions.sum(), policy)

    return compute


def _of_critics(critics: CriticEnsemble, latent_dim: int, normal: _Normal) -> _Compute:
    z_NL, y_HB1 = normal(*_LEADING, latent_dim).flatten(0, 1), normal(*_LEADING, 1)

    def compute() -> dict[str, Tensor]:
        critics.requires_grad_(False)
        leaf = z_NL.clone().requires_grad_()
        values = critics(leaf)
        found = {"values": values.detach()} | _gradients(values.square().sum(), critics, leaf)
        critics.requires_grad_(True)
        found["error"] = critics.differentiate_error(z_NL, y_HB1.flatten())
        given = y_HB1, values[0].detach().view_as(y_HB1), 0.99, 0.95
        found["TD(lambda)"] = td_lambda(*given, critics.uses_kernels)
        return found | {
            f"gradient of {name}": parameter.grad
            for name, parameter in critics.named_parameters()
            if parameter.grad is not None
        }

    return compute


def _gradients(total: Tensor, part: nn.Module, *leaves: Tensor) -> dict[str, Tensor]:
    """Return the gradients of the leaves and of the parameters that have one, by name."""
    named = {f"input {i}": leaf for i, leaf in enumerate(leaves)}
    named |= {name: p for name, p in part.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    pairs = zip(named, found, strict=True)
    return {f"gradient of {name}": g for name, g in pairs if g is not None}

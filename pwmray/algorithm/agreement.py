"""Whether kernels compute here what torch computes: devices, their compilers and drivers differ.

Shapes: B rows, O observation, A action, L latent; each has two leading dimensions, H and B.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pwmray.algorithm.returns import td_lambda
from pwmray.models import CriticEnsemble, Policy, WorldModel
from pwmray.precision import FLOAT32, autocast
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM

_LEADING = (3, 32)
_TOLERANCE = 0.01  # of a tensor's norm; rounding is off by 1e-5


class _Found(NamedTuple):
    what: str
    by_kernels: Tensor
    by_torch: Tensor


def check(module: nn.Module, use_kernels: Callable[[nn.Module, bool], None]) -> None:
    """Raise RuntimeError, naming the first, where values or gradients differ by more than rounding.

    Copies of the world model, the policy and the critics in `module` are asked, with random
    weights: those that a trial starts from make a flow stand still. `use_kernels` turns kernels on
    or off.
    """
    latent_dim = next(part.latent_dim for part in module.modules() if isinstance(part, WorldModel))
    with _exact_products():
        _check_parts(module, latent_dim, use_kernels)


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    """Round no factor: an entry on the other side of a clamp has another gradient altogether."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _check_parts(
    module: nn.Module, latent_dim: int, use_kernels: Callable[[nn.Module, bool], None]
) -> None:
    for part in module.modules():
        if isinstance(part, WorldModel | Policy | CriticEnsemble):
            for what, ours, theirs in _compare(copy.deepcopy(part), latent_dim, use_kernels):
                scale = theirs.norm().clamp(min=1e-6 * theirs.numel() ** 0.5)
                difference = float((ours - theirs).norm() / scale)
                if not difference <= _TOLERANCE:  # nor is NaN
                    name = type(part).__name__
                    raise RuntimeError(f"{name}: {what} by kernels is off by {difference:.1e}")


def _compare(
    part: WorldModel | Policy | CriticEnsemble,
    latent_dim: int,
    use_kernels: Callable[[nn.Module, bool], None],
) -> Iterator[_Found]:
    draws = _Draws(next(part.parameters()).device)
    with torch.no_grad():
        for parameter in part.parameters():
            numbers = draws.normal(*parameter.shape)
            is_matrix = parameter.ndim > 1
            parameter.copy_(numbers / parameter.shape[-1] ** 0.5 if is_matrix else 1 + numbers / 10)
    if isinstance(part, WorldModel):
        compute = _of_world_model(part, draws)
    elif isinstance(part, Policy):
        compute = _of_policy(part, latent_dim, draws)
    else:
        compute = _of_critics(part, latent_dim, draws)
    found = []
    for is_on in (True, False):
        use_kernels(part, is_on)
        found.append(compute(is_on))
    for what in found[0] | found[1]:
        if what not in found[0] or what not in found[1]:
            raise RuntimeError(f"{type(part).__name__}: {what} is there by kernels or torch alone")
        yield _Found(what, found[0][what], found[1][what])


class _Draws:
    """Normal numbers, the same on every device."""

    def __init__(self, device: torch.device):
        self._device, self._generator = device, torch.Generator().manual_seed(0)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator, device="cpu").to(self._device)


Compute = Callable[[bool], dict[str, Tensor]]


def _of_world_model(model: WorldModel, draws: _Draws) -> Compute:
    obs, a = draws.normal(*_LEADING, MAX_OBS_DIM), draws.normal(*_LEADING, MAX_ACTION_DIM).tanh()
    weight, tau = draws.normal(*_LEADING, model.latent_dim), draws.normal(*_LEADING, 1).sigmoid()
    task = torch.zeros((), dtype=torch.long, device=obs.device)

    def compute(_: bool) -> dict[str, Tensor]:
        found = {}
        for how, is_trained in (("", True), (" of a frozen model", False)):
            model.requires_grad_(is_trained)
            with autocast(FLOAT32, obs.device):  # within which a step shares what the next ones use
                e, leaf = model.embed(task).expand(*_LEADING, -1), a.clone().requires_grad_()
                z = model.encode(obs, e)
                start = z.detach().requires_grad_()
                next_z = model.next(model.next(start, e, leaf), e, leaf)
                reward = model.reward(next_z, e, leaf)
                matching = model.matching_loss(start, e, leaf, z.detach().roll(1, 0), tau)
            found |= {f"next{how}": next_z.detach(), f"reward{how}": reward.detach()}
            total = ((z + next_z) * weight).sum() + reward.sum()
            total = total if matching is None else total + matching.sum()
            gradients = _gradients(total, model, start, leaf)
            found |= {f"{name}{how}": gradient for name, gradient in gradients.items()}
        return found

    return compute


def _of_policy(policy: Policy, latent_dim: int, draws: _Draws) -> Compute:
    z, noise = draws.normal(*_LEADING, latent_dim), draws.normal(*_LEADING, MAX_ACTION_DIM)
    mask = (torch.arange(MAX_ACTION_DIM, device=z.device) < MAX_ACTION_DIM - 1).float()

    def compute(_: bool) -> dict[str, Tensor]:
        with autocast(FLOAT32, z.device):
            actions = policy.sample(z, noise, mask)[0]
            with torch.no_grad():
                acted = policy(z, noise, mask)
        found = {"action": actions.detach(), "action without gradients": acted}
        return found | _gradients(actions.sum(), policy)

    return compute


def _of_critics(critics: CriticEnsemble, latent_dim: int, draws: _Draws) -> Compute:
    z_NL, y_HB1 = draws.normal(*_LEADING, latent_dim).flatten(0, 1), draws.normal(*_LEADING, 1)

    def compute(is_on: bool) -> dict[str, Tensor]:
        critics.requires_grad_(False)
        leaf = z_NL.clone().requires_grad_()
        values = critics(leaf)
        found = {"values": values.detach()} | _gradients(values.square().sum(), critics, leaf)
        critics.requires_grad_(True)
        found["error"] = critics.differentiate_error(z_NL, y_HB1.flatten())
        found["TD(lambda)"] = td_lambda(y_HB1, values[0].detach().view_as(y_HB1), 0.99, 0.95, is_on)
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

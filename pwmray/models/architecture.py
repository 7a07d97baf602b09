"""The architecture of a published world model, read from its tensors' shapes.

Names are ours: task_embedding, encoder, dynamics or published_velocity, reward_head.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Sizes(NamedTuple):
    """What the shapes say."""

    kind: str
    num_tasks: int
    obs_dim: int
    action_dim: int
    encoder: list[int]  # widths, the latent last
    units: list[int]  # widths of the hidden layers of reward and dynamics
    task_dim: int
    num_bins: int


def infer_sizes(state: Mapping[str, Tensor]) -> Sizes:
    """Return what the first and last layers say; raise ValueError where they are missing."""
    kind = "flow" if "published_velocity.0.weight" in state else "mlp"
    num_tasks, task_dim = _matrix(state, "task_embedding.weight").shape
    encoder, reward = _widths(state, "encoder"), _widths(state, "reward_head")
    return Sizes(
        kind=kind,
        num_tasks=num_tasks,
        obs_dim=_matrix(state, "encoder.0.weight").shape[1] - task_dim,
        action_dim=_matrix(state, "reward_head.0.weight").shape[1] - encoder[-1] - task_dim,
        encoder=encoder,
        units=reward[:-1],
        task_dim=task_dim,
        num_bins=reward[-1],
    )


def _widths(state: Mapping[str, Tensor], part: str) -> list[int]:
    names = (f"{part}.{i}.weight" for i in itertools.count())
    found = [_matrix(state, name) for name in itertools.takewhile(state.__contains__, names)]
    if len(found) < 2:
        raise ValueError(f"{part} has {len(found)} of the layers 0, 1, ...; it needs 2 or more")
    return [matrix.shape[0] for matrix in found]


def _matrix(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise ValueError(f"{name} is missing")
    if state[name].ndim != 2:
        raise ValueError(f"{name} has the shape {tuple(state[name].shape)}; it must be a matrix")
    return state[name]


def check_shapes(state: Mapping[str, Tensor], sizes: Sizes) -> None:
    """Raise ValueError naming the first tensors that are missing, unknown or of a wrong shape."""
    expected = _expected_shapes(sizes)
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not of this architecture" for name in found if name not in expected]
    problems += [
        f"{name} has the shape {found[name]}, not {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ValueError("; ".join(problems[:3]) + more)


def _expected_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    latent_dim = sizes.encoder[-1]
    columns = latent_dim + sizes.task_dim + sizes.action_dim
    dynamics = [*sizes.units, latent_dim]
    shapes: dict[str, tuple[int, ...]] = {
        "task_embedding.weight": (sizes.num_tasks, sizes.task_dim)
    }
    shapes |= _layer_shapes("encoder", sizes.obs_dim + sizes.task_dim, sizes.encoder)
    if sizes.kind == "flow":
        shapes |= _layer_shapes("published_velocity", columns + 1, dynamics)
    else:
        shapes |= _layer_shapes("dynamics", columns, dynamics)
    shapes |= _layer_shapes("reward_head", columns, [*sizes.units, sizes.num_bins])
    last = f"reward_head.{len(sizes.units)}.ln"  # the logits are not normalised
    return {name: shape for name, shape in shapes.items() if not name.startswith(last)}


def _layer_shapes(part: str, in_dim: int, widths: list[int]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (before, width) in enumerate(itertools.pairwise([in_dim, *widths])):
        shapes[f"{part}.{i}.weight"] = (width, before)
        for name in ("bias", "ln.weight", "ln.bias"):
            shapes[f"{part}.{i}.{name}"] = (width,)
    return shapes

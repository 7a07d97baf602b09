"""The sizes: what a config's `size` stands for, in the flat keys that sweeps write.

Numbers are TD-MPC2's names, millions of parameters with its five Q functions (arXiv 2310.16828,
code e9f5932); policy and critics have PWM's widths at every one of them. `task_dim` is 64 on MT30
(TD-MPC2's own 1M and 317M files of MT30 use 96). Integrators and substeps belong to no size.

A flow kind has widths of its own so that it has as many parameters as the kind that it is compared
with, within 2 % at every size: the flow policy's input is 7 wider (the noisy action and tau), so
its first layer is a little narrower. The flow world model's input is 1 wider (tau), but its
velocity ends without a LayerNorm, which weighs that up at equal widths.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from pwmray.checks import take_preset
from pwmray.models import KINDS
from pwmray.wording import unknown

Settings = dict[str, Any]

DEFAULT_SIZE = "48"


def _size(
    latent_dim: int,
    encoder_units: tuple[int, ...],
    units: tuple[int, ...],
    flow_first_unit: int,
    flow_units: tuple[int, ...] | None = None,
    task_dim: int = 64,
    policy_units: tuple[int, ...] = (400, 200, 100),
    critic_units: tuple[int, ...] = (400, 200),
    num_critics: int = 3,
) -> Settings:
    return {
        "world_model.latent_dim": latent_dim,
        "world_model.encoder_units": encoder_units,
        "world_model.units": units,
        "world_model[flow].units": flow_units or units,
        "world_model.task_dim": task_dim,
        "policy.units": policy_units,
        "policy[flow].units": (flow_first_unit, *policy_units[1:]),
        "critic.units": critic_units,
        "critic.num_critics": num_critics,
    }


SIZES: dict[str, Settings] = {
    "laptop": _size(
        64,
        (128,),
        (128, 128),
        flow_first_unit=247,
        task_dim=16,
        policy_units=(256, 128),
        critic_units=(128, 64),
        num_critics=2,
    ),
    "1": _size(128, (256,), (384, 384), flow_first_unit=392),
    "5": _size(512, (256,), (512, 512), flow_first_unit=396),
    "19": _size(512, (1024, 1024), (1024, 1024), flow_first_unit=396),
    # The kinds' own defaults, also a new kind's; a flow's widths are the earlier multitask runs'.
    DEFAULT_SIZE: _size(
        768, (1792, 1792, 1792), (1792, 1792), flow_first_unit=400, flow_units=(1788, 1788)
    ),
    "317": _size(1376, (4096,) * 4, (4096, 4096), flow_first_unit=398),
}


def expand(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the key `size` by the widths that it sets; those given win.

    Raises ValueError for a size that there is not.
    """
    rest, widths = take_preset(flat, "size", SIZES)
    if widths is not None:
        widths = widths | dict(_widths_of_kinds(str(flat["size"])))
    # A key that is in both goes to the end: there it also wins over the size's [flow] key.
    return {key: value for key, value in (widths or {}).items() if key not in rest} | rest


def _widths_of_kinds(size: str) -> Iterator[tuple[str, Any]]:
    """Yield what kinds say of themselves at a size, by flat key."""
    for part, registry in KINDS.items():
        for kind, model in registry.items():
            by_size = {str(key): widths for key, widths in model.Config.by_size.items()}
            where = f"{model.Config.__module__}: {model.Config.__name__}.by_size"
            for name in by_size:
                if name not in SIZES:
                    raise ValueError(f"{where}: {unknown('size', name, SIZES)}")
            if DEFAULT_SIZE in by_size:
                raise ValueError(f"{where}: size {DEFAULT_SIZE} is its fields' defaults; set those")
            by_size[DEFAULT_SIZE] = _own_defaults(part, model.Config)
            for name, value in by_size.get(size, {}).items():
                yield f"{part}[{kind}].{name}", value


def _own_defaults(part: str, its: type) -> dict[str, Any]:
    """Return a kind's defaults that are not those of the default size."""
    shared = SIZES[DEFAULT_SIZE]
    defaults = {field.name: field.default for field in dataclasses.fields(its)}
    return {n: value for n, value in defaults.items() if shared.get(f"{part}.{n}", value) != value}

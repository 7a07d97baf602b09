"""The words by which trials are told apart, derived from settings; needs nothing that trains."""

from collections.abc import Iterable, Mapping
from typing import Any

from pwmray.checks import take_preset

SCRATCH = "scratch"
SETS_VARIANT = ("variant", "world_model.kind", "policy.kind")  # what a variant follows from
PARAMETER_TOLERANCE = 0.02  # kinds whose numbers of parameters differ by more are not compared
# The 2x2: a variant is a kind of world model with a kind of policy.
VARIANTS = {
    "baseline": ("mlp", "gaussian"),
    "flowpolicy": ("mlp", "flow"),
    "flowwm": ("flow", "gaussian"),
    "fullflow": ("flow", "flow"),
}


def variant_of(world_model_kind: str, policy_kind: str) -> str:
    """Return the cell of the 2x2, or both kinds where there is none."""
    kinds = (world_model_kind, policy_kind)
    names = {pair: name for name, pair in VARIANTS.items()}
    return names.get(kinds, "+".join(kinds))


def expand(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the key `variant` by those of both kinds, which stand after all others.

    Where they are in no cell of the 2x2 it is both, "gru+gaussian", as `variant_of` has it.
    Raises ValueError for a name that is none.
    """
    rest, kinds = take_preset(flat, "variant", VARIANTS | _pairs(flat.get("variant")))
    return rest | (_as_settings(kinds) if kinds else {})


def check_kinds(flat: Mapping[str, Any]) -> None:
    """Raise ValueError for a kind that is given beside a variant of another one, which wins."""
    variant = flat.get("variant")
    known = VARIANTS | _pairs(variant)
    if variant not in list(known):
        return
    for key, kind in _as_settings(known[variant]).items():
        if flat.get(key, kind) != kind:
            raise ValueError(
                f"{key!r} is {flat[key]!r}, but variant {variant!r} sets it to {kind!r}; drop "
                "one of them"
            )


def _pairs(variant: Any) -> dict[str, tuple[str, str]]:
    """Return what "gru+gaussian" means, by that; whether there are such kinds is not known here."""
    kinds = str(variant).split("+")
    return {str(variant): (kinds[0], kinds[1])} if len(kinds) == 2 and all(kinds) else {}


def _as_settings(kinds: Iterable[str]) -> dict[str, str]:
    return dict(zip(("world_model.kind", "policy.kind"), kinds, strict=True))


def methodology_of(world_model_from: str, finetune_wm: bool) -> str:
    """Return how the world model came to be and whether it is trained here."""
    if world_model_from == SCRATCH:
        return "joint_from_scratch"
    return "policy_and_wm_finetuning" if finetune_wm else "policy_finetuning"

"""The words by which trials are told apart, derived from settings; needs nothing that trains."""

SCRATCH = "scratch"
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


def methodology_of(world_model_from: str, finetune_wm: bool) -> str:
    """Return how the world model came to be and whether it is trained here."""
    if world_model_from == SCRATCH:
        return "joint_from_scratch"
    return "policy_and_wm_finetuning" if finetune_wm else "policy_finetuning"

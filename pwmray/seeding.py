"""Named random streams: everything random in a trial is derived from its one seed by name."""

import hashlib

import torch


def derive_seed(seed: int, name: str) -> int:
    """Return the seed of the stream `name`, in [0, 2**63): other names give unrelated streams."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the generator of the stream `name` on `device`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, name))

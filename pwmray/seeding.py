"""Named random streams: everything random in a trial is derived from its one seed by name."""

import contextlib
import hashlib
import logging
from collections.abc import Iterator

import torch

log = logging.getLogger(__name__)


def derive_seed(seed: int, name: str) -> int:
    """Return the seed of the stream `name`, in [0, 2**63): other names give unrelated streams."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the generator of the stream `name` on `device`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, name))


@contextlib.contextmanager
def global_draws_from(stream: torch.Generator, name: str) -> Iterator[None]:
    """Have what draws from torch's global stream draw numbers that follow from `stream` and `name`.

    torch's own layers do so where they are made. Nothing is taken from `stream`, and the global one
    is afterwards where it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(stream.initial_seed(), name))
        yield


def restore(stream: torch.Generator, state: torch.Tensor, name: str) -> None:
    """Have a generator go on from a saved state.

    The kinds of devices keep states of their own: from one of another kind it goes on with other
    numbers, which follow from that state, and the log says so.
    """
    if state.numel() == stream.get_state().numel():
        stream.set_state(state.cpu())
        return
    log.warning("stream=%s was saved on another kind of device: other numbers from here on", name)
    saved = hashlib.sha256(state.cpu().numpy().tobytes()).hexdigest()
    stream.manual_seed(derive_seed(stream.initial_seed(), saved))

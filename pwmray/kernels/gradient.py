"""The gradient of a parameter that a pass uses several times, added up where it is computed."""

from torch import Tensor


class Gradient:
    """Shared by the autograd nodes of one parameter: each use adds to it, the first returns it.

    It refers to no node: in a reference cycle nodes would outlive their epoch, and no CUDA graph
    can be recorded while they do.
    """

    def __init__(self) -> None:
        self.total: Tensor | None = None
        # On a GPU: partial sums over some rows each, by how many there are. Later uses add to them
        # in place, and at the end they are added up once.
        self.parts: dict[int, Tensor] = {}

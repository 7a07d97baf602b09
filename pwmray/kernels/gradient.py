"""The gradient of a parameter that a pass uses several times, added up where it is computed."""

from torch import Tensor, UntypedStorage

from pwmray.kernels.branches import Beside


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
        self.branch: Beside | None = None  # in which the total is computed, and what that reads
        self.read: list[UntypedStorage] = []  # tensors would refer to nodes

    def finish(self) -> Tensor | None:
        """Return the total once nothing is added to it beside what follows."""
        if self.branch is not None:
            self.branch.join()
        self.branch, self.read = None, []
        return self.total

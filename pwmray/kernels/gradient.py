"""The gradient of what is used several times in a pass, added up where it is computed."""

from torch import Tensor


class Gradient:
    """What functions of autograd share: each use adds to `total`, and the first node gives it out.

    It refers to no node. In a circle nodes would outlive their epoch, and none can be recorded
    while they do.
    """

    def __init__(self) -> None:
        self.total: Tensor | None = None
        # On a GPU sums over some rows each, by their number: later uses add to them where they
        # lie, and they are added up once.
        self.parts: dict[int, Tensor] = {}

"""Where and how a trial runs."""

import re
from dataclasses import dataclass

from pwmray.checks import check_least, check_positive, check_share

_GPU_TYPE = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how a trial runs; not part of its fingerprint."""

    num_cpus: int = 1  # and torch threads
    gpu_fraction: float = 1.0  # of one GPU, where the machine or cluster has any
    gpu_type: str = ""  # such as H100: asked for where the cluster offers it; empty: any
    # Run the networks by compiled kernels, made once on a machine, in seconds. What is computed
    # differs by rounding.
    compile: bool = True
    cuda_graph: bool = True  # on a GPU, record an epoch once and replay it
    checkpoint_seconds: float = 60.0  # at most this much training is lost, plus one curve row
    disk_wait_seconds: float = 1800.0  # that a full disk is waited for, keeping CPUs and GPU
    # Without an epoch, an environment step or a write for so long (or for ten times as long as
    # ever before) a trial counts as hung: its process is ended, and it is resumed.
    hang_minutes: float = 30.0

    def check(self) -> None:
        """Raise ValueError for resources that no machine has."""
        check_least("runtime", self, 1, "num_cpus")
        check_positive("runtime", self, "gpu_fraction")
        check_positive("runtime", self, "hang_minutes", or_infinite=True)  # then none hangs
        check_share("runtime", self, "gpu_fraction")
        if self.gpu_type and not _GPU_TYPE.fullmatch(self.gpu_type):
            raise ValueError(
                f"runtime.gpu_type is {self.gpu_type!r}; it must be a name as Ray has it, of "
                "letters, digits, - and _, such as H100"
            )
        for name in ("checkpoint_seconds", "disk_wait_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"runtime.{name} is {getattr(self, name)}; it must be 0 or more")

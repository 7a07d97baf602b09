"""W&B: a process beside the driver makes its runs from what trials leave in their folders."""

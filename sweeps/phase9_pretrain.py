"""Phase 9, pretraining: the world models that the published and the corrected learner start from.

Question  none: what the policies of phase 9 start from
Varies    world_model.kind, fidelity (of a flow: an MLP is the same under both)
Holds     tasks, data, iterations, loss weights, seed
Compares  nothing: phase 9 compares what is learned in them
"""

from pwmray.pretrain_command import Pretraining
from search_spaces import SCALES

pretraining = Pretraining(
    name="phase9_pretrain",
    vary={"world_model.kind": ["mlp", "flow"], "fidelity": ["corrected", "published"]},
    scales=SCALES,
)

if __name__ == "__main__":
    pretraining.main()

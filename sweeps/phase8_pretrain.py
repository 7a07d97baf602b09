"""Phase 8, pretraining: a matched pair of world models on the data of all tasks.

Question  none: what the policies of phases 3, 7 and 8 start from
Varies    world_model.kind
Holds     tasks, data, iterations, loss weights, seed
Compares  nothing: phases 3, 7 and 8 compare what is learned in them
"""

from pwmray.pretrain_command import Pretraining
from search_spaces import SCALES

pretraining = Pretraining(
    name="phase8_pretrain",
    vary={"world_model.kind": ["mlp", "flow"]},
    scales=SCALES,
)

if __name__ == "__main__":
    pretraining.main()

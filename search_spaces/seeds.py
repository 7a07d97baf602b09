"""Training seeds, in the order in which a sweep takes them."""

TRAIN_SEEDS = (42, 123, 456)

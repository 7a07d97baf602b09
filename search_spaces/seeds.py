"""Training seeds: those of sweeps, in the order in which they are taken, and a search's."""

TRAIN_SEEDS = (42, 123, 456)
# None of those above: a return that was picked as the highest would flatter its settings there too.
SEARCH_SEED = 7

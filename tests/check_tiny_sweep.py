"""Assert on the tables that a sweep of two trials left behind: python check_tiny_sweep.py DIR."""

import json
import sys
from pathlib import Path

from pwmray.results import CURVE, EVALUATIONS, TRIALS, read_table

work = Path(sys.argv[1])
sweep = work / "results" / "phase6_epochs"
trials = read_table(sweep / "trials.arrow")
curves = read_table(sweep / "curves.arrow")
evaluations = read_table(sweep / "evaluations.arrow")
summary = json.loads((work / "summary.json").read_text())

assert trials.schema.remove_metadata() == TRIALS
assert curves.schema.remove_metadata() == CURVE
assert evaluations.schema.remove_metadata() == EVALUATIONS
assert trials["status"].to_pylist() == ["EVALUATED", "EVALUATED"]
assert sorted(trials["variant"].to_pylist()) == ["baseline", "fullflow"]
assert trials["epochs_reached"].to_pylist() == trials["epochs"].to_pylist()
assert len(evaluations) == 2 * 50
assert set(evaluations["length"].to_pylist()) == {500}
assert all(0 <= value <= 1000 for value in evaluations["return"].to_pylist())
assert set(curves["trial"].to_pylist()) == set(trials["trial"].to_pylist())
assert summary["sweep"] == "phase6_epochs"
assert [row["num_trials"] for row in summary["predictions"]] == [1, 1]
drawn = ("returns_by_variant", "learning_curves", "predicted_rewards", "imagined_against_real")
for name in drawn:
    for suffix in (".png", ".svg", ".pdf"):
        assert (sweep / "figures" / (name + suffix)).stat().st_size > 10_000
print("the tables of the tiny sweep hold what they should")

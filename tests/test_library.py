"""What the documents say of own data and of the learner as a library: their blocks run."""

import numpy as np

from pwmray.cli import main
from pwmray.data.store import open_store
from pwmray.tasks import find_task
from tests.documents import ROOT, run_blocks


def test_learner_trains_on_own_data_and_acts_as_the_document_shows(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    space = run_blocks(ROOT / "docs" / "library.md")
    assert len(space["losses"]) == space["config"].epochs
    assert space["is_over"]


def test_own_episodes_are_imported_as_the_document_shows(tmp_path):
    name, rng = "pendulum-spin", np.random.default_rng(0)
    task = find_task(name)
    obs = rng.uniform(-1, 1, (3, 501, task.obs_dim)).astype(np.float32)
    action = rng.uniform(-1, 1, (3, 501, task.action_dim)).astype(np.float32)
    reward = rng.uniform(0, 2, (3, 501)).astype(np.float32)
    action[:, 0], reward[:, 0] = np.nan, np.nan
    (tmp_path / "mine").mkdir()
    space = run_blocks(ROOT / "docs" / "data.md")
    space["save_chunk"](tmp_path / "mine", name, obs, action, reward, "my-agent")
    assert main(["data", "import", str(tmp_path / "mine"), "--data", str(tmp_path / "own")]) == 0
    store = open_store(tmp_path / "own" / "mt30" / f"{name}.arrow", task=name)
    np.testing.assert_array_equal(store.obs, obs.reshape(-1, task.obs_dim))
    np.testing.assert_array_equal(store.action, action.reshape(-1, task.action_dim))
    assert store.num_episodes == 3

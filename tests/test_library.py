"""The document on the learner as a library: its blocks run, and print what they show."""

from tests.documents import ROOT, run_blocks


def test_learner_trains_on_own_data_and_acts_as_the_document_shows(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    space = run_blocks(ROOT / "docs" / "library.md")
    assert len(space["losses"]) == space["config"].epochs
    assert space["is_over"]

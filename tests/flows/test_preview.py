"""Preview: filled prompts and answers, without a trace."""

from active_reading.flows.preview import NUM_PROMPTS, preview
from active_reading.flows.settings import load_study


def test_a_preview_shows_prompts_of_several_documents_and_templates_and_writes_nothing(
    tmp_path, tiny_model, monkeypatch
):
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("owl", "heron", "crane"):
        (tmp_path / "docs" / f"{name}.txt").write_text(f"The {name} sleeps in the old oak. The {name} eats mice.")
    study = load_study(str(tmp_path / "docs"), [f"model={tiny_model}", "generate.engine=echo"])
    before = sorted(tmp_path.rglob("*"))
    blocks = list(preview(study))
    assert sorted(tmp_path.rglob("*")) == before
    assert len(blocks) == NUM_PROMPTS
    text = "\n".join(blocks)
    assert all(f" on {name}.txt" in text for name in ("owl", "heron", "crane"))
    assert all(f"=== {name} on" in text for name in ("paraphrase", "questions", "propose_strategies"))
    assert all("Text:\n" in block and "--- answer (stop)" in block for block in blocks)

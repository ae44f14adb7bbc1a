"""A data set in the hands of other libraries, the real ones: TRL, transformers, polars, DuckDB.

Not covered: whether anything is learned in one step; a real hub.
"""

from pathlib import Path
from typing import Any

import datasets
import duckdb
import polars as pl
import pytest

from active_reading.augment.export import CONFIGS

HEADER = "".join(f"- config_name: {config}\n  data_files: data/{config}/*.parquet\n" for config in CONFIGS)
CHAT = "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}<|end|>{% endfor %}"
QUIET: dict[str, Any] = {"report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "seed": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_tokenizer, chunks, distinct) -> Path:
    from active_reading.augment.export import ExportSettings, make_rows, write_dataset

    place = tmp_path_factory.mktemp("loads") / "dataset"
    answers = {"questions": "questions"}
    batches = make_rows(
        chunks,
        distinct.lazy(),
        pl.DataFrame(schema={"id": pl.String, "template": pl.String}),
        answers,
        tiny_tokenizer,
    )
    write_dataset(batches, ExportSettings().instruction, tiny_tokenizer, place)
    (place / "README.md").write_text(f"---\nconfigs:\n{HEADER}---\n")
    return place


@pytest.fixture
def load(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return lambda config: datasets.load_dataset(
        str(folder), config, split="train", cache_dir=str(tmp_path / "cache")
    )


@pytest.fixture
def tokenizer(tiny_model) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = CHAT
    return tokenizer


@pytest.mark.parametrize("config", ["text", "messages", "prompt_completion"])
def test_trl_trains_on_every_view(load, tiny_model, tokenizer, tmp_path, config):
    import trl

    settings = trl.SFTConfig(
        str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=6, max_length=256, bf16=False, **QUIET
    )
    trainer = trl.SFTTrainer(str(tiny_model), args=settings, train_dataset=load(config), processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    rows = zip(batch["input_ids"], batch["attention_mask"], strict=True)
    read = [tokenizer.decode(ids[mask.bool()]) for ids, mask in rows]
    learned = [tokenizer.decode(labels[labels != -100]) for labels in batch["labels"]]
    pair, told = "Question: What hides?\nAnswer: An eel", "An eel hides."
    asked = "Write down what you know about: eel"
    expected = {
        "text": [(f"{pair}<|end|>", f"{pair}<|end|>"), (f"{told}<|end|>", f"{told}<|end|>")],
        "prompt_completion": [
            (f"{pair}<|end|>", " An eel<|end|>"),
            (f"{asked}\n\n{told}<|end|>", f"{told}<|end|>"),
        ],
        "messages": [
            (2 * ("<user>What hides?<|end|><assistant>An eel<|end|>",)),
            (2 * (f"<user>{asked}<|end|><assistant>{told}<|end|>",)),
        ],
    }[config]
    assert set(expected) <= set(zip(read, learned, strict=True))
    result = trainer.train()
    assert result.global_step == 1
    assert 0 < result.training_loss < 20


def test_a_plain_trainer_of_transformers_trains_on_the_text(load, tiny_model, tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM, DataCollatorForLanguageModeling, Trainer, TrainingArguments

    texts = load("text")
    tokens = texts.map(lambda row: tokenizer(row["text"]), remove_columns=texts.column_names)
    trainer = Trainer(
        AutoModelForCausalLM.from_pretrained(tiny_model),
        TrainingArguments(str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=3, **QUIET),
        train_dataset=tokens,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    assert trainer.train().global_step == 2
    assert [len(row["input_ids"]) for row in tokens] == texts["num_tokens"][:]


def test_polars_scans_it(folder):
    longest = pl.scan_parquet(folder / "data" / "text" / "*.parquet").filter(pl.col("num_tokens") > 20)
    assert longest.select("source", "template").collect().height == 4
    turns = pl.scan_parquet(folder / "data" / "messages" / "*.parquet").select(
        pl.col("messages").list.first().struct.field("content")
    )
    assert "What hides?" in turns.collect()["content"]


def test_duckdb_queries_it_with_sql(folder):
    counted = duckdb.sql(
        f"SELECT template, count(*), sum(num_tokens) FROM '{folder}/data/text/*.parquet' GROUP BY template"
    ).fetchall()
    rows = pl.read_parquet(folder / "data" / "text" / "*.parquet")
    expected = rows.group_by("template").agg(pl.len(), pl.col("num_tokens").sum()).rows()
    assert sorted(counted) == sorted(expected)
    said = duckdb.sql(
        f"SELECT messages[1].content, messages[2].role FROM '{folder}/data/messages/*.parquet' WHERE id = 't1'"
    ).fetchall()
    assert said == [("What hides?", "assistant")]

"""What dedupe's threshold does to a data set of rewrites, and to what a model learns from it.

    python tests/benchmarks/dedupe_thresholds.py [--quick] [--corpus demo|xquad] [--output FOLDER]

The pipeline (vLLM) makes `--replicates` paraphrases of each chunk of the demo's documents, or of articles of XQuAD
(--data has xquad_en_24_articles.json; see forgetting.py), and its filter drops the unfaithful ones. Each threshold
leaves some of them: how many, how different they are (distinct-3 of an equal sample, and the share of its size to
which zlib packs it), and the NLL of the corpus' gold answers, closed book and 5-shot, of models that were trained
on an equal number of their tokens. A threshold of 1 drops only rewrites that are equal word for word.
--quick: one seed. Trainings go to `thresholds.jsonl` as they come; one that is there already is not made again.
On a GPU the same command. The last line of standard output is one JSON object.
"""

import argparse
import json
import shutil
import zlib
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl
import transformers
from forgetting import ROOT, train_settings
from forgetting_corpora import xquad_files

from active_reading.augment.dedupe import DedupeSettings, find_duplicates
from active_reading.augment.figures import diversity
from active_reading.augment.identity import content_hash
from active_reading.eval.answers import ClosedBook
from active_reading.eval.questions import Question, few_shot_examples, read_questions
from active_reading.eval.scores import mean_and_error
from active_reading.flows.models import resolve_model
from active_reading.flows.pipeline import run_plain
from active_reading.flows.settings import DEFAULT_MODEL, Study, demo_study, load_study
from active_reading.train.load import load_model, load_tokenizer
from active_reading.train.trainer import train_model

SAMPLE = 100  # texts that diversity is measured on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--corpus", choices=("demo", "xquad"), default="demo")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "thresholds")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.5, 0.65, 0.8, 1.0])
    parser.add_argument("--replicates", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=0.3, help="of the rewrites: the lower, the more alike")
    parser.add_argument("--num-tokens", type=int, default=8_192)
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    study = make_study(
        arguments.corpus, arguments.data, arguments.output, arguments.replicates, arguments.temperature
    )
    rewrites, chunks = kept_rewrites(study)
    assert study.evaluate.questions
    questions = read_questions(Path(study.evaluate.questions))
    made = Trainings(arguments.output, questions, arguments.num_tokens)
    lines = []
    for threshold in arguments.thresholds:
        repeats = find_duplicates(rewrites.lazy(), DedupeSettings(threshold=threshold))
        texts = rewrites.join(repeats, on="id", how="anti").sort("id")
        losses = [made.gold_nll(texts["text"].to_list(), seed) for seed in range(1 if arguments.quick else 3)]
        line = {"threshold": threshold, "texts": texts.height, **figures(texts, chunks)}
        line["gold_nll"], line["gold_nll_se"] = mean_and_error(losses)
        line["gold_nlls"] = losses
        print(json.dumps(line), flush=True)
        lines.append(line)
    result = {
        "corpus": arguments.corpus,
        "rewrites": rewrites.height,
        "temperature": arguments.temperature,
        "base_gold_nll": made.base_nll(),
        "num_tokens": arguments.num_tokens,
        "thresholds": lines,
    }
    print(json.dumps(result))


def make_study(corpus: str, data: Path, output: Path, replicates: int, temperature: float) -> Study:
    """A study of paraphrases alone."""
    template = f"{{template: paraphrase, replicates: {replicates}, max_tokens: 160}}"
    overrides = [
        f"output={output / corpus}",
        f"generate.templates=[{template}]",
        f"generate.temperature={temperature}",
    ]
    if corpus == "demo":
        return demo_study(overrides)
    folder, questions = xquad_files(data / "xquad_en_24_articles.json", output, 6)
    return load_study(str(folder), [*overrides, f"evaluate.questions={questions}"])


def kept_rewrites(study: Study) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The faithful rewrites, and the chunks."""
    filtered = run_plain(study, "filter")
    (chunks,) = study.root.glob("chunk-*/chunks.parquet")
    rows = pl.read_parquet(filtered / "kept.parquet")
    return rows.select("id", "text", "template", "chunk_id"), pl.read_parquet(chunks)


def figures(texts: pl.DataFrame, chunks: pl.DataFrame) -> dict[str, Any]:
    """How different the texts are, on a sample of one size."""
    sample = texts.head(SAMPLE)
    (line,) = diversity(sample.lazy(), chunks)
    text = "\n".join(sample["text"]).encode()
    return {"distinct": line["distinct"], "packed_share": len(zlib.compress(text, 9)) / len(text)}


class Trainings:
    """Models trained on texts, each measured once."""

    def __init__(self, output: Path, questions: list[Question], num_tokens: int) -> None:
        self.base = str(resolve_model(DEFAULT_MODEL).folder)
        self.tokenizer = load_tokenizer(self.base)
        self.questions, self.num_tokens = questions, num_tokens
        self.file, self.scratch = output / "thresholds.jsonl", output / "scratch"

    def base_nll(self) -> float:
        """NLL of the gold answers before any training."""
        return self._measured(load_model(self.base).eval())

    def gold_nll(self, texts: list[str], seed: int) -> float:
        """NLL of the gold answers, in nats a token, after full finetuning on the texts."""
        key = content_hash(texts, [question.question for question in self.questions], self.num_tokens, seed)
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        known: dict[str, float] = {line["key"]: line["gold_nll"] for line in map(json.loads, lines)}
        if key not in known:
            shutil.rmtree(self.scratch, ignore_errors=True)
            settings = train_settings("full", 5e-5, self.num_tokens, seed, {})
            train_model(texts, self.base, "full", settings, self.scratch, lambda *_: None)
            known[key] = self._measured(load_model(self.scratch).eval())
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "seed": seed, "gold_nll": known[key]}) + "\n")
        return known[key]

    def _measured(self, model: Any) -> float:
        return fmean(ClosedBook(model, self.tokenizer, few_shot_examples(), 12).answer_nll(self.questions))


if __name__ == "__main__":
    main()

"""Results as a large study's, made up and hostile: 5,000 answers of seven models, every section of the page filled.

What a model, a document or a setting could write holds a script now and then, or is one long bomb of Markdown and
HTML. What runs of it counts in `window.planted`, and what becomes an element has the attribute `data-planted`.
"""

import random
from typing import Any

import polars as pl

from active_reading.eval.changes import pairs_to_compare
from active_reading.eval.paired import compare
from active_reading.eval.scores import mean_and_error
from active_reading.flows.browser import browse

Row = dict[str, Any]
RUNS = "window.planted = (window.planted || 0) + 1"
SCRIPT = f"<script data-planted>{RUNS}</script>"
BOMB = (
    f"</script></style></title></textarea>{SCRIPT}<img data-planted src=x onerror='{RUNS}'>"
    f"<svg data-planted onload='{RUNS}'></svg>"
    f"<iframe data-planted srcdoc='<script>parent.{RUNS}</script>'></iframe>"
    f"<a data-planted href='javascript:{RUNS}'>x</a><style data-planted>*{{display: none !important}}</style>"
    "<base data-planted href='http://127.0.0.1:9/'>"
    "<meta data-planted http-equiv=refresh content='0;url=http://127.0.0.1:9/'>"
    f"[x](javascript:{RUNS}) ![y](http://127.0.0.1:9/y.png) {{{{ 7 * 7 }}}} {{% raw %}} ${{{RUNS}}} "
    + "<div>" * 2000 + ">" * 3000 + "[" * 3000 + "*" * 3000 + "`" * 3000 + "W" * 3000
)  # fmt: skip
MODELS = ["base", *(f"{data}-{method}" for data in ("naive", "augmented") for method in ("full", "lora", "memory"))]
LEARNED = [0.03, 0.18, 0.12, 0.15, 0.5, 0.3, 0.45]  # the share that each model has right
FORGOT = [0.0, 0.41, 0.12, 0.02, 0.74, 0.25, 0.04]  # nats
NUM_DOCUMENTS = 60


def make_results(num_samples: int) -> Row:
    """The plain dict that `eval.report.write_report` takes."""
    chance = random.Random(0)
    words = _words(chance)
    texts = _texts(chance, words)
    gold = [_question(chance, texts, place) for place in range(num_samples)]
    general = [{"question": f"General question {place}?", "answers": ["x"]} for place in range(110)]
    samples = {
        name: [_answered(row, share, chance) for row in gold] for name, share in zip(MODELS, LEARNED, strict=True)
    }
    items = {
        name: {
            "learning": samples[name],
            "general_questions": [_answered(row, 0.6 - loss / 4, chance) for row in general],
            "general_text": [{"text": f"text {at}", "nll": 3 + loss + chance.gauss(0, 0.1)} for at in range(40)],
            "docstrings": [{"text": f"text {at}", "nll": 3 + loss + chance.gauss(0, 0.1)} for at in range(40)],
        }
        for name, loss in zip(MODELS, FORGOT, strict=True)
    }
    models = [_model(name, items[name], chance, words) for name in MODELS]
    learning = models[0]["learning"]
    facts = {"model": "SmolLM2-135M-Instruct", "revision": "abc123"}
    asked = gold[:: max(1, num_samples // 12)][:12]
    return {
        "schema": 2,
        "version": "0.1.0",
        "study": f"page {SCRIPT}",
        "created": "2026-11-25T12:00:00+00:00",
        "corpus": {"documents": NUM_DOCUMENTS, "characters": 240_000, "chunks": 600, "tokens": 61_000}
        | {"skipped": [{"source": BOMB[:300], "reason": SCRIPT}, {"source": "a.bin", "reason": "not UTF-8 text"}]},
        "generator": facts | {"engine": "vllm", "temperature": 0.7, "top_p": 0.95, "seed": 0},
        "student": facts,
        "templates": [_template(name) for name in ("paraphrase", "questions", f"mine {SCRIPT}", "apply_strategy")],
        "judge": _judge(),
        "diversity": [
            {"template": name, "sample": 90, "distinct": 0.7, "copied": 0.2} for name in ("paraphrase", SCRIPT)
        ],
        "coverage": [
            {"source": name, "sentences": 9, "sentences_mentioned": 3, "numbers": 4, "numbers_mentioned": 1}
            for name in _documents()[:10]
        ],
        "models": models,
        "comparisons": _comparisons(models, items),
        "over_seeds": [],
        "ceilings": {name: learning | {"f1": 0.8} for name in ("base, with search", SCRIPT)},
        "questions": [
            {key: row[key] for key in ("question", "answers", "document")}
            | {"model_answers": {name: {"answer": _told(chance), "f1": chance.choice([0, 0.5])} for name in MODELS}}
            for row in asked
        ],
        "samples": browse(samples, texts),
        "examples": _examples(texts),
        "prices": {"machine_per_hour": 2.5, "prompt_per_million": 0.1, "completion_per_million": 0.4},
        "stages": [{"name": name, "seconds": 210.5, "cost": 0.146} for name in ("ingest", "generate", "filter")]
        + [{"name": f"train {name}", "seconds": 95.0, "cost": 0.066} for name in MODELS[1:]],
    }  # fmt: skip


def expected_filters(results: Row, model: int) -> dict[str, int]:
    """How many questions the page's browser has to show of one model, for each choice."""
    rights = [(item["given"][0][2] == 1, item["given"][model][2] == 1) for item in results["samples"]["items"]]
    return {
        "all": len(rights),
        "learned": rights.count((False, True)),
        "kept": rights.count((True, True)),
        "lost": rights.count((True, False)),
        "wrong": sum(not now for _, now in rights),
        "right": sum(now for _, now in rights),
    }


def _words(chance: random.Random) -> list[str]:
    return ["".join(chance.choices("abdeiklmnorstuv", k=chance.randint(3, 10))) for _ in range(4000)]


def _documents() -> list[str]:
    names = [f"people/number_{place:02d}_of_a_long_list.md" for place in range(NUM_DOCUMENTS)]
    return [SCRIPT, f"{'deep/' * 40}x.md", *names[2:]]


def _texts(chance: random.Random, words: list[str]) -> pl.DataFrame:
    """250 training texts a document, each made of a passage of it; one of them is the bomb."""
    rows = []
    for name in _documents():
        document = " ".join(chance.choices(words, k=4000))
        for place in range(250):
            start = place * 100
            passage = document[start : start + 300]
            text = BOMB + passage if place == 7 else f"It is told: {passage} {SCRIPT if place == 8 else ''}"
            facts = {"id": f"{len(rows):032x}", "template": "paraphrase", "strategy": BOMB if place == 9 else None}
            whence = {"source": name, "title": name, "document_id": name, "start": start, "end": start + 300}
            rows.append(facts | whence | {"text": text, "document_text": document})
    return pl.DataFrame(rows, infer_schema_length=None)


def _question(chance: random.Random, texts: pl.DataFrame, place: int) -> Row:
    text = texts.row(chance.randrange(texts.height), named=True)
    passage = text["document_text"][text["start"] : text["end"]].split()[1:-1]
    asked = " ".join(chance.choices(passage, k=7)).capitalize()
    answers = [chance.choice(passage), *([BOMB] if place % 500 == 0 else [])]
    question = f"{asked} ({place})? {SCRIPT if place % 50 == 0 else ''}"
    document = None if place % 4 == 0 else text["source"]
    return {"question": question, "answers": answers, "document": document, "kind": ("seen", "held out")[place % 2]}


def _told(chance: random.Random) -> str:
    return chance.choice(["a heron", "1921", "in Pellamire", SCRIPT, BOMB[:600], ""])


def _answered(row: Row, share: float, chance: random.Random) -> Row:
    right = chance.random() < share
    told = row["answers"][0] if right else chance.choice(["a heron", "in the year 1921", SCRIPT, "no one knows it"])
    scores = {"f1": float(right), "exact_match": float(right), "answer_nll": 4 - 3 * share + chance.gauss(0, 0.5)}
    return row | {"answer": told} | scores


def _summary(rows: list[Row]) -> Row:
    found: Row = {"n": len(rows)}
    for key in ("f1", "exact_match", "answer_nll", "nll"):
        if key in rows[0]:
            found[key], found[f"{key}_se"] = mean_and_error([row[key] for row in rows])
    return found


def _model(name: str, items: dict[str, list[Row]], chance: random.Random, words: list[str]) -> Row:
    data, _, method = name.partition("-")
    sets = {each: _summary(rows) for each, rows in items.items()}
    kinds = {
        kind: _summary([row for row in items["learning"] if row["kind"] == kind]) for kind in ("seen", "held out")
    }
    train = {"tokens": 40_000, "steps": 40, "seconds": 90.1, "final_loss": 1.2, "trainable_parameters": 9216}
    if method == "memory":
        use = {"hub_share": 0.017, "dead_share": 0.05, "entropy": 0.98}
        train |= {"slot_usage": {layer: use for layer in "246"}, "touched_parameters": 3_456_000}  # type: ignore[dict-item]
    return {
        "name": name,
        "data": data if method else None,
        "method": method or None,
        "learning_rate": 2e-5 if method else None,
        "seed": 0,
        "train": train if method else None,
        "config": f"method: {method}\nbackground: {BOMB}" if method else None,
        "divergence": {each: {"n": 16, "kl": 0.1, "kl_se": 0.01} for each in ("new_text", "general_text")},
        "slot_sharing": _sharing(chance, words) if method == "memory" else None,
        "learning": sets["learning"] | {"kinds": kinds},
        "retention": {each: sets[each] for each in sets if each != "learning"},
    }


def _sharing(chance: random.Random, words: list[str]) -> Row:
    names = _documents()
    overlap = [[round(chance.betavariate(6, 10), 4) for _ in range(place)] for place in range(len(names))]
    pairs = [(overlap[b][a], a, b) for b in range(len(names)) for a in range(b)]
    return {
        "documents": names,
        "total": 4000,
        "num_rows": 6000,
        "unread": 35,
        "alone": 193,
        "common": 1540,
        "read": [0.4] * len(names),
        "overlap": overlap,
        "pairs": [
            {"documents": [names[a], names[b]], "overlap": value, "rows": 1200}
            for value, a, b in sorted(pairs)[-10:]
        ],
        "hubs": [
            {"table": "4", "row": 16_000 + place, "documents": 60 - place, "reads": 0.0021}
            | {"tokens": [SCRIPT, " ", "\n", chance.choice(words)]}
            for place in range(10)
        ],
    }


def _comparisons(models: list[Row], items: dict[str, dict[str, list[Row]]]) -> list[Row]:
    found = []
    for names in [(before["name"], after["name"]) for before, after in pairs_to_compare(models)]:
        before, after = (items[name] for name in names)
        sets = {each: compare(before[each], after[each], names) for each in before}
        found.append({"before": names[0], "after": names[1], "sets": sets})
    return found


def _template(name: str) -> Row:
    requests = {"planned": 168, "accepted": 160, "rejected": 6, "failed": 2}
    dropped = {"ungrounded": 50, "copy": 20, "duplicate": 10, SCRIPT: 1}
    return {
        "template": name,
        **requests,
        "texts": 160,
        "kept": 90,
        "distinct": 80,
        "tokens": 9000,
        "dropped": dropped,
    }


def _judge() -> Row:
    shares = {"texts": 400, "fallen": 31, "unjudged": 0, "planted": 200, "threshold": 0.31, "recall": 0.7}
    shares |= {"false_rejects": 0.05, "precision": 0.93, "auc": 0.9}
    return {
        "statements": shares | {"recall_by_kind": {"number": 0.8, SCRIPT: 0.6}},
        "answers": {"texts": 90, "fallen": 4},
    }


def _examples(texts: pl.DataFrame) -> list[Row]:
    columns = ["id", "template", "strategy", "text", "source", "title", "start", "end", "document_text"]
    return texts[4:14].select(columns).to_dicts()

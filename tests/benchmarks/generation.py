"""Speed of the generate stage against bare vLLM, distilabel and datatrove; how much of the prompts caching serves.

    python tests/benchmarks/generation.py [--quick] [--model FOLDER_OR_ID] [--peers FOLDER]

Ten templates per chunk of the demo's documents, on one engine: the whole stage (plan, templates, ledger, the check
of its counts, the filter) and `vllm.LLM.chat` on the same messages and sampling, in turn (A B B A ...), the cache
emptied before each; generated tokens a second, median of the ratios of neighbours. The stage's own order against a
shuffled one, with a cache that holds a part of the corpus, as it is wherever a corpus is large.
Each peer runs on the same messages in an environment of its own, each with vLLM as it starts it itself:

    python -m venv FOLDER/distilabel && FOLDER/distilabel/bin/pip install distilabel[vllm]
    python -m venv FOLDER/datatrove && FOLDER/datatrove/bin/pip install datatrove[inference] vllm

On a GPU: python tests/benchmarks/generation.py --model Qwen/Qwen3-0.6B --chunks 2000
The last line of standard output is one JSON object.
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl

from active_reading.augment.chunk import ChunkSettings, chunk_documents
from active_reading.augment.engine import Engine, VllmEngine
from active_reading.augment.filter import FilterSettings, filter_generations
from active_reading.augment.funnel import check_requests, request_counts
from active_reading.augment.generate import generate
from active_reading.augment.ingest import IngestSettings, read_documents
from active_reading.augment.ledger import Ledger
from active_reading.augment.plan import ModelIdentity, Plan, Planner
from active_reading.augment.settings import GenerateSettings, TemplateUse
from active_reading.flows.models import resolve_model
from active_reading.flows.settings import DEFAULT_MODEL, DEMO
from active_reading.prompts.render import load_template
from active_reading.train.load import load_tokenizer

WAYS = [
    "Say the same in other words.",
    "Say it as a teacher would.",
    "Retell it as a news report.",
    "Write it as a short letter.",
    "Explain it to a child.",
    "Turn it round: begin with the last fact.",
    "Write it as notes in full sentences.",
    "Retell it in the first person plural.",
    "Say what matters most in it, then the rest.",
    "Write a summary with all names and numbers.",
]
SHIPPED = """paraphrase paraphrase_plain paraphrase_encyclopedia summary timeline questions cloze key_concepts
mind_map teacher""".split()
IDENTITY = ModelIdentity("benchmark", "1")
SHARED_BLOCK = 32  # tokens
MAX_MODEL_LEN = 1024


def main() -> None:
    arguments = _arguments()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    folder = resolve_model(arguments.model).folder
    if arguments.hits:
        print(json.dumps(cache_hits(folder, arguments.hits, arguments.max_num_seqs)))
        return
    num_chunks = arguments.chunks or (4 if arguments.quick else 24)
    if arguments.alone:
        print(json.dumps(stage_alone(folder, num_chunks, arguments.max_num_seqs)))
        return
    rounds = arguments.rounds or (3 if arguments.quick else 5)
    command = [sys.executable, __file__, "--model", str(folder), "--max-num-seqs", str(arguments.max_num_seqs)]
    few = ["--hits", "80", "--max-num-seqs", "8"]  # a cache that holds less than the corpus
    done = subprocess.run([*command, *few], check=True, capture_output=True, text=True)
    hits = json.loads(done.stdout.strip().splitlines()[-1])
    print(hits, flush=True)
    chunks = demo_chunks(folder, num_chunks)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        settings = ten_templates(work, with_examples=True, max_num_seqs=arguments.max_num_seqs)
        import vllm

        llm = bare_engine(vllm, str(folder), arguments.max_num_seqs)
        engine = our_engine(vllm, llm, str(folder), arguments.max_num_seqs)
        ratios, speeds, cpu_ratios = compare(llm, engine, chunks, settings, work, rounds)
        dtype = our_arguments(vllm, str(folder), arguments.max_num_seqs)["dtype"]
        messages = [request["messages"] for request in asked(engine, chunks, settings)]
        (work / "messages.json").write_text(json.dumps(messages), encoding="utf-8")
        del engine
        llm.llm_engine.engine_core.shutdown()
        del llm
        alone = [*command, "--alone", "--chunks", str(num_chunks)]
        peers = {name: over_peer(name, arguments.peers, work / "messages.json", alone, dtype) for name in PEERS}
    result = {
        "over_bare_vllm": round(statistics.median(ratios), 3),
        "prefix_hit_share": hits["as shipped, chunks of 96, by chunk"],
        **{f"over_{name}": peer.get("over") for name, peer in peers.items()},
        "over_bare_vllm_cpu_time": round(statistics.median(cpu_ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "tokens_per_second": {name: [round(speed, 1) for speed in values] for name, values in speeds.items()},
        "hit_shares": hits,
        "peers": peers,
        "requests": 10 * num_chunks,
        "dtype": dtype,
    }
    print(json.dumps(result))


def demo_chunks(model: Path, wanted: int, max_tokens: int = 96) -> pl.DataFrame:
    documents, _ = read_documents(IngestSettings(path=str(DEMO / "documents")))
    chunks = chunk_documents(documents, load_tokenizer(model), ChunkSettings(max_tokens=max_tokens))
    titles = documents.select("document_id", "title")
    return chunks.join(titles, on="document_id", maintain_order="left")[:wanted]


def ten_templates(folder: Path, with_examples: bool, max_num_seqs: int) -> GenerateSettings:
    """Ten ways to retell; the examples of the shipped paraphrase first, or the document first and no example."""
    shipped = load_template("paraphrase").source
    uses = []
    for number, way in enumerate(WAYS):
        source = shipped.replace(WAYS[0], way)
        if not with_examples:
            source = f"---\nversion: 1\nanswer: text\n---\nText:\n{{{{ text }}}}\n\n{way}\n"
        path = folder / f"{'examples' if with_examples else 'document'}_{number}.j2"
        path.write_text(source, encoding="utf-8")
        uses.append(TemplateUse(template=str(path), max_tokens=48))
    return GenerateSettings(templates=uses, max_num_seqs=max_num_seqs, max_model_len=MAX_MODEL_LEN)


def our_arguments(vllm: Any, model: str, max_num_seqs: int) -> dict[str, Any]:
    """What our engine gives to vLLM on this machine."""
    taken = {}

    def take(arguments: Any) -> Any:
        taken.update({name: getattr(arguments, name) for name in ("dtype", "enforce_eager", "block_size")})
        taken["enable_chunked_prefill"] = arguments.enable_chunked_prefill
        taken["max_num_batched_tokens"] = arguments.max_num_batched_tokens
        raise Taken

    real, vllm.LLMEngine.from_engine_args = vllm.LLMEngine.from_engine_args, staticmethod(take)
    try:
        VllmEngine(model, MAX_MODEL_LEN, max_num_seqs, 0)
    except Taken:
        pass
    finally:
        vllm.LLMEngine.from_engine_args = real
    return taken


def bare_engine(vllm: Any, model: str, max_num_seqs: int) -> Any:
    """`vllm.LLM` with the arguments that our engine gives to vLLM, and a cache that holds a part of the corpus."""
    blocks = (max_num_seqs + 8) * 384 // SHARED_BLOCK
    return vllm.LLM(
        model=model,
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=max_num_seqs,
        num_gpu_blocks_override=blocks,
        disable_log_stats=True,
        **our_arguments(vllm, model, max_num_seqs),
    )


class Taken(Exception):
    """The arguments are known, and no engine is needed."""


def our_engine(vllm: Any, llm: Any, model: str, max_num_seqs: int) -> VllmEngine:
    """Our engine around the very engine of `llm`: both sides compute on the same weights and the same cache."""
    real, vllm.LLMEngine.from_engine_args = vllm.LLMEngine.from_engine_args, lambda _: llm.llm_engine
    try:
        engine = VllmEngine(model, MAX_MODEL_LEN, max_num_seqs, 0)
    finally:
        vllm.LLMEngine.from_engine_args = real
    engine.close = lambda: None  # type: ignore[method-assign]
    return engine


def asked(engine: VllmEngine, chunks: pl.DataFrame, settings: GenerateSettings) -> list[dict[str, Any]]:
    plan = Plan(Planner(settings, IDENTITY), chunks)
    return [
        {"messages": request.template.messages(**request.values), "parameters": engine.parameters(request.sampling)}
        for request in plan.requests(plan.initial())
    ]


def compare(
    llm: Any, engine: Engine, chunks: pl.DataFrame, settings: GenerateSettings, work: Path, rounds: int
) -> tuple[list[float], dict[str, list[float]], list[float]]:
    """Ratios of tokens a second, the speeds, and ratios of tokens a CPU second (which others disturb less)."""
    speeds: dict[str, list[float]] = {"bare": [], "stage": []}
    ratios, cpu_ratios = [], []
    requests = asked(engine, chunks[:2], settings)  # type: ignore[arg-type]
    chat(llm, requests)  # warm
    requests = asked(engine, chunks, settings)  # type: ignore[arg-type]
    for number in range(rounds):
        sides = ["bare", "stage"] if number % 2 == 0 else ["stage", "bare"]
        now, cpu = {}, {}
        for side in sides:
            llm.reset_prefix_cache()
            began, cpu_began = time.perf_counter(), time.process_time()
            if side == "bare":
                tokens = sum(len(output.outputs[0].token_ids) for output in chat(llm, requests))
            else:
                tokens = whole_stage(engine, chunks, settings, work / f"ledger-{number}")
            now[side] = tokens / (time.perf_counter() - began)
            cpu[side] = tokens / (time.process_time() - cpu_began)
            speeds[side].append(now[side])
        ratios.append(now["stage"] / now["bare"])
        cpu_ratios.append(cpu["stage"] / cpu["bare"])
        print(f"round {number}: {now} tokens/s; {cpu} tokens a CPU second", flush=True)
    return ratios, speeds, cpu_ratios


def chat(llm: Any, requests: list[dict[str, Any]]) -> Any:
    messages = [request["messages"] for request in requests]
    return llm.chat(messages, [request["parameters"] for request in requests], use_tqdm=False)


def whole_stage(engine: Engine, chunks: pl.DataFrame, settings: GenerateSettings, ledger: Path) -> int:
    made = generate(chunks, settings, IDENTITY, Ledger(ledger), lambda: engine, lambda *_: None)
    check_requests(request_counts(made.rows, made.num_planned))
    answers = {name: "text" for name in made.rows["template"].unique()}
    filter_generations(made.rows, answers, chunks, FilterSettings())
    return int(made.rows["completion_tokens"].sum())


def cache_hits(model: Path, num_chunks: int, max_num_seqs: int) -> dict[str, float]:
    """Share of prompt tokens that were cached, for prompts in the stage's order and shuffled.

    The share depends on tokens, order and the size of the cache alone, so that a model of one narrow layer, with
    the tokenizer of the real one, gives it in seconds. The cache has room for what runs and eight prompts more.
    """
    import vllm

    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        llm = bare_engine(vllm, str(narrow_model(model, work)), max_num_seqs)
        engine = our_engine(vllm, llm, str(work / "narrow"), max_num_seqs)
        shares = {}
        forms = {
            "as shipped": GenerateSettings(templates=[TemplateUse(template=name) for name in SHIPPED]),
            "one example": ten_templates(work, True, max_num_seqs),
            "document first": ten_templates(work, False, max_num_seqs),
        }
        for form, settings in forms.items():
            for max_tokens in (96, 256):
                chunks = demo_chunks(model, num_chunks, max_tokens)
                requests = asked(engine, chunks, settings)
                for request in requests:
                    request["parameters"].max_tokens = 1
                for order in ("by chunk", "shuffled"):
                    if order == "shuffled":
                        random.Random(0).shuffle(requests)
                    llm.reset_prefix_cache()
                    outputs = chat(llm, requests)
                    cached = sum(output.num_cached_tokens for output in outputs)
                    prompt = sum(len(output.prompt_token_ids) for output in outputs)
                    shares[f"{form}, chunks of {max_tokens}, {order}"] = round(cached / prompt, 3)
        return shares


def narrow_model(model: Path, folder: Path) -> Path:
    """A random model of one layer with the tokenizer of `model`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = load_tokenizer(model)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1,
        head_dim=32, max_position_embeddings=MAX_MODEL_LEN, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "narrow")
    tokenizer.save_pretrained(folder / "narrow")
    return folder / "narrow"


# Each defines `measure`: tokens and seconds of the messages, after eight of them to warm up.
PEERS = {
    "distilabel": """
import vllm
from distilabel.models.llms.vllm import vLLM
dtype = engine.pop("dtype")
llm = vLLM(model=model, dtype=dtype, extra_kwargs=engine, disable_cuda_device_placement=True)
llm.load()
parameters = vllm.SamplingParams
def without_processors(**given):  # distilabel 1.5.3 gives an argument that vLLM no longer has
    given.pop("logits_processors")
    return parameters(**given)
vllm.SamplingParams = without_processors
def run(messages):
    outputs = llm.generate_outputs([(each, None) for each in messages], max_new_tokens=48, temperature=0.7)
    return sum(sum(output["statistics"]["output_tokens"]) for output in outputs)
def measure(messages):
    run(messages[:8])
    began = time.perf_counter()
    return run(messages), time.perf_counter() - began
""",
    "datatrove": """
import os, tempfile, threading
from datatrove.data import Document
from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
from datatrove.pipeline.writers import JsonlWriter
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
tokens, ends, warm = [], [], threading.Semaphore(0)
async def rollout(document, generate):
    payload = {"messages": document.metadata["messages"], "max_tokens": 48, "temperature": 0.7}
    result = await generate(payload)
    tokens.append(result.usage["completion_tokens"])
    ends.append(time.perf_counter())
    warm.release()
    return result
def documents(messages):
    for number, each in enumerate(messages[:8] + messages):
        if number == 8:
            for _ in range(8):
                warm.acquire()
            ends.append(time.perf_counter())
        yield Document(text="", id=str(number), metadata={"messages": each})
def measure(messages):
    names = {name.replace("_", "-"): value for name, value in engine.items() if name != "max_model_len"}
    config = InferenceConfig("vllm", model, engine["max_model_len"], model_kwargs=names)
    config.max_concurrent_documents = config.max_concurrent_generations = 2 * engine["max_num_seqs"]
    with tempfile.TemporaryDirectory() as folder:
        InferenceRunner(rollout, config, JsonlWriter(folder)).run(documents(messages))
    return sum(tokens[8:]), ends[-1] - ends[8]
""",
}
FRAME = """
import json, sys, time
if __name__ == "__main__":
    messages = json.load(open(sys.argv[1]))
    model, engine = sys.argv[2], json.loads(sys.argv[3])
    exec(sys.argv[4])
    tokens, seconds = measure(messages)
    print(json.dumps({"tokens_per_second": round(tokens / seconds, 1), "tokens": tokens}))
"""


def over_peer(name: str, peers: Path | None, messages: Path, alone: list[str], dtype: str) -> dict[str, Any]:
    """Our tokens a second over the peer's, each alone on the machine, in the order ours, peer, peer, ours.

    In the precision that is ours on this machine, too.
    """
    python = peers / name / "bin" / "python" if peers else None
    if python is None or not python.is_file():
        return {"missing": f"no environment for {name}: see --help for how to make one, and give --peers FOLDER"}
    model, max_num_seqs = alone[alone.index("--model") + 1], int(alone[alone.index("--max-num-seqs") + 1])
    engine = {"max_model_len": MAX_MODEL_LEN, "max_num_seqs": max_num_seqs, "dtype": dtype}
    theirs = [
        str(python),
        "-c",
        FRAME,
        str(messages),
        model,
        json.dumps(engine | {"enforce_eager": True}),
        PEERS[name],
    ]
    speeds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for side in ("ours", "theirs", "theirs", "ours"):
        done = subprocess.run(alone if side == "ours" else theirs, capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if re.search(r"\w(Error|Exception)\b", line)]
            return {"error": lines[-1] if lines else done.stderr.strip()[-500:]}
        told = [line for line in done.stdout.splitlines() if line.startswith('{"tokens_per_second"')]
        speeds[side].append(json.loads(told[-1])["tokens_per_second"])  # vLLM logs after it
    print(name, speeds, flush=True)
    return {**speeds, "over": round(sum(speeds["ours"]) / sum(speeds["theirs"]), 3)}


def stage_alone(folder: Path, num_chunks: int, max_num_seqs: int) -> dict[str, float]:
    """The whole stage on an engine of its own, as a study runs it; the engine's start is not counted."""
    chunks = demo_chunks(folder, num_chunks)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        settings = ten_templates(work, with_examples=True, max_num_seqs=max_num_seqs)
        engine = VllmEngine(str(folder), MAX_MODEL_LEN, max_num_seqs, 0)
        engine.close = lambda: None  # type: ignore[method-assign]
        warm = settings.model_copy(update={"templates": settings.templates[:8], "seed": 1})
        whole_stage(engine, chunks[:1], warm, work / "warm")
        began = time.perf_counter()
        tokens = whole_stage(engine, chunks, settings, work / "ledger")
        return {"tokens_per_second": round(tokens / (time.perf_counter() - began), 1)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="under ten minutes on two CPU cores")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--chunks", type=int, help="chunks whose ten requests are timed")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--max-num-seqs", type=int, default=32)
    parser.add_argument("--hits", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--peers", type=Path, help="folder of the peers' environments")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Preview: a few filled prompts and their answers, printed; nothing is written."""

from collections.abc import Iterator
from itertools import islice

from active_reading.flows.models import resolve_model
from active_reading.flows.settings import Study

NUM_PROMPTS = 5


def preview(study: Study) -> Iterator[str]:
    """Blocks of text: the templates in turn on documents spread over the corpus, and the answers.

    Strategies are shown as proposed, not applied. Raises ValueError for a mistake in the study.
    """
    from active_reading.augment.chunk import chunk_documents
    from active_reading.augment.generate import make_engine
    from active_reading.augment.ingest import read_documents
    from active_reading.augment.plan import ModelIdentity, Plan, Planner, Request
    from active_reading.train.load import load_tokenizer

    model = resolve_model(study.model)
    planner = Planner(study.generate, ModelIdentity("", ""))
    documents, _ = read_documents(study.corpus)
    some = documents.gather_every(max(1, documents.height // NUM_PROMPTS)).head(NUM_PROMPTS)
    chunks = chunk_documents(some, load_tokenizer(model.folder), study.chunk)
    titled = chunks.unique("document_id", keep="first", maintain_order=True).join(
        some.select("document_id", "title", "source"), on="document_id", maintain_order="left"
    )
    sources = titled["source"].to_list()
    plan = Plan(planner, titled)
    uses = [
        list(plan.requests(rows))
        for rows in plan.initial().filter(replicate=0).partition_by("chunk", maintain_order=True)
    ]
    asked: dict[str, tuple[Request, str]] = {}
    for turn in range(max((len(requests) for requests in uses), default=0)):
        for place, requests in enumerate(uses):
            request = requests[(turn + place) % len(requests)]
            asked.setdefault(request.request_id, (request, sources[place]))
    asked = dict(islice(asked.items(), NUM_PROMPTS))
    engine = make_engine(study.generate, model.folder)
    try:
        for request_id, (request, _) in asked.items():
            engine.submit(request_id, request.template.messages(**request.values), request.sampling)
        while engine.num_running:
            for answer in engine.poll():
                request, source = asked[answer.request_id]
                turns = request.template.messages(**request.values)
                prompt = "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in turns)
                ended = f"({answer.finish_reason}{': ' + answer.error if answer.error else ''})"
                yield f"=== {request.template.name} on {source}\n{prompt}\n\n--- answer {ended}\n{answer.text}\n"
    finally:
        engine.close()

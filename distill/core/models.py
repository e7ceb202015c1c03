"""Names of models, and where they are on this machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pydantic import field_validator

from distill.core import fingerprint
from distill.core.config import Settings, digest
from distill.core.errors import ConfigError, DistillError
from distill.core.files import read_json
from distill.core.records import ModelIdentity

EMBEDDED = {"embedded-teacher": "teachers.embedded", "embedded-student": "students.embedded"}
"""The two models that come with the package, by the package that holds them."""

SAFE_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "README.md"]
"""What is fetched from the Hub: no pickles, no code. The card states the licence."""

TEXT_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "README.md"]
"""What of it is there without the weights."""


class ModelConfig(Settings):
    """A model by name."""

    model: str
    """`embedded`, a local model folder, a .gguf file, or a Hub id."""
    revision: str | None = None
    """Branch, tag or commit on the Hub. None: main."""

    @field_validator("model")
    @classmethod
    def _exists(cls, model: str) -> str:
        """A path that is not there is refused with the file's line, before anything runs."""
        if not is_embedded(model) and looks_local(model) and not Path(model).expanduser().exists():
            raise ValueError(f"no such folder or file: {model}")
        return model


def is_embedded(model: str) -> bool:
    """Whether the name means a model that comes with the package (`embedded`: the one of its role)."""
    return model == "embedded" or model in EMBEDDED


def looks_local(model: str) -> bool:
    """Whether a name can only be a path: a Hub id is `owner/name`."""
    return model.startswith((".", "/", "~")) or model.endswith(".gguf") or model.count("/") != 1


def resolve_text(model: str, revision: str | None = None) -> Path:
    """As `resolve`, but of a model on the Hub only tokenizer and configuration are fetched: megabytes, no weights."""
    return _resolve(model, revision, TEXT_FILES)


def cached_text(model: str, revision: str | None = None) -> Path | None:
    """As `resolve_text` without the network: None for a model of the Hub that has not been fetched to this machine."""
    if not on_hub(model):
        return _resolve(model, revision, TEXT_FILES)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=TEXT_FILES, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def on_hub(model: str) -> bool:
    """Whether a name can only be a model of the Hub, so that looking at it may need the network."""
    return not is_embedded(model) and not looks_local(model) and not Path(model).expanduser().exists()


def resolve(model: str, revision: str | None = None) -> Path:
    """The local folder (or .gguf file) of a model; a Hub id is downloaded once by huggingface_hub.

    Raises ConfigError if it is neither an embedded name nor an existing path and can be no Hub id, DistillError if the
    Hub does not give it.
    """
    return _resolve(model, revision, SAFE_FILES)


def _resolve(model: str, revision: str | None, wanted: list[str]) -> Path:
    if model in EMBEDDED:
        spec = importlib.util.find_spec(EMBEDDED[model])
        if spec is None or spec.origin is None:
            raise DistillError(f"model `{model}`: package {EMBEDDED[model]} is not installed")
        return Path(spec.origin).parent / "model"
    path = Path(model).expanduser()
    if path.exists():
        return path
    if looks_local(model):
        raise ConfigError(
            f"model `{model}`: no such folder or file, and not a Hub id (owner/name). "
            f"Embedded models: {', '.join(EMBEDDED)}"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DistillError(f"model `{model}`: cannot be fetched from the Hub ({reason})") from error


def transport_faults() -> type[Exception]:
    """What the Hub's client raises where there was no answer: the base of its HTTP library, httpx or httpx2."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


def base_of(folder: Path) -> str | None:
    """The base model that an adapter folder names; None for a whole model."""
    settings = folder / "adapter_config.json"
    if not settings.exists():
        return None
    base = read_json(settings).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise DistillError(f"{settings}: names no base_model_name_or_path, so the adapter has nothing to stand on")
    return base


def identify(model: str, revision: str | None = None) -> ModelIdentity:
    """Content hash of a local model, without loading it; of an adapter together with its base."""
    path = resolve(model, revision)
    own = fingerprint.identify(path, name=model if model in EMBEDDED else None)
    base = base_of(path) if path.is_dir() else None
    if base is None:
        return own
    below = identify(base)
    return ModelIdentity(
        id=digest([own.id, below.id])[:32],
        name=own.name,
        tokenizer=own.tokenizer or below.tokenizer,
        template=own.template or below.template,
        vocab_size=below.vocab_size,
    )

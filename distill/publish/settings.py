"""Settings of `publish:`: what goes to which repository, and who may see it."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from distill.core.config import Settings

What = Literal["model", "adapter", "gguf", "dataset"]
"""What a run can give to others: merged weights, the adapter alone, GGUF files, the traces."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
LONGEST_ID = 96
"""Of a name on the Hub, owner and slash aside (https://huggingface.co/docs/huggingface_hub: repository ids)."""


def repository(name: str) -> str:
    """The name, or ValueError if it is none of a repository with an owner."""
    owner, _, own = name.partition("/")
    fine = HUB_ID.fullmatch(name) and max(len(owner), len(own)) <= LONGEST_ID
    if not fine or "--" in name or ".." in name or name.endswith((".git", "-", ".")):
        raise ValueError(f"a repository of the Hub is `owner/name`, such as you/my-student; got {name!r}")
    return name


Repository = Annotated[str, AfterValidator(repository)]


class Config(Settings):
    """Settings of `publish:`."""

    repo: Repository
    """Model repository, `owner/name`: merged model, and all that has no repository of its own."""
    adapter_repo: Repository | None = None
    """Model repository of the adapter. None: a folder `adapter` of `repo`."""
    gguf_repo: Repository | None = None
    """Model repository of the GGUF files. None: `repo`."""
    dataset_repo: Repository | None = None
    """Dataset repository of the traces. None: they are not sent."""
    what: list[What] | None = Field(default=None, min_length=1)
    """What is sent. None: all that the run has exported, and the traces where `dataset_repo` is given."""
    rejected: bool = False
    """Whether the dataset also has the answers that filters rejected, each with its reason."""
    private: bool = True
    """Whether a repository that is made here is private. One that is there keeps its visibility, and it is said."""
    licence: str | None = None
    """Licence of the release, as the Hub writes it: apache-2.0, mit, cc-by-4.0 ... None: as the sources allow."""

    @model_validator(mode="after")
    def _has_a_place(self) -> Self:
        if self.what is not None and "dataset" in self.what and self.dataset_repo is None:
            raise ValueError("`what` asks for the dataset; name its repository: `dataset_repo: you/my-traces`")
        if self.what is not None and len(set(self.what)) != len(self.what):
            raise ValueError("`what` names something twice")
        return self

    def wants(self, what: What) -> bool:
        """Whether this is to be sent, where the run has it."""
        if what == "dataset" and self.dataset_repo is None:
            return False
        return self.what is None or what in self.what

"""Which licence a release may have, by the licences of what it was made of: a table, and what it does not know.

This is no legal advice: it catches what is plainly wrong, and says `unknown` wherever it has no plain rule. A source's
licence meets the chosen one in three ways (`Use`): a release's weights derive from the base model's (`weights`), its
dataset holds the problems' and traces' own text (`data`), and a model has only been trained on that text (`training`).
Whether training makes the model an adaptation of the text is not settled, so conditions that hang on adaptation
(share-alike, no derivatives) are `unknown` there; "not for commercial use" limits any use, training included.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

Use = Literal["weights", "data", "training"]
Answer = Literal["fits", "unfit", "unknown"]


@dataclass(frozen=True)
class Licence:
    """What a licence asks of those who pass on a work, as far as it decides about another licence."""

    id: str
    """As the Hub writes it (https://huggingface.co/docs/hub/repositories-licenses)."""
    title: str
    source: str
    """Where its text was read."""
    share_alike: bool = False
    """Adaptations go on under the same licence, or under one of `also`."""
    also: tuple[str, ...] = ()
    commercial: bool = True
    derivatives: bool = True
    own_terms: bool = False
    """A licence of one publisher whose terms go on with every derivative (names, use policies)."""


_CC = "https://creativecommons.org/licenses"
_SPDX = "https://spdx.org/licenses"

TABLE: dict[str, Licence] = {
    licence.id: licence
    for licence in (
        Licence("apache-2.0", "Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0"),
        Licence("mit", "MIT License", f"{_SPDX}/MIT.html"),
        Licence("bsd-2-clause", "BSD 2-Clause License", f"{_SPDX}/BSD-2-Clause.html"),
        Licence("bsd-3-clause", "BSD 3-Clause License", f"{_SPDX}/BSD-3-Clause.html"),
        Licence("isc", "ISC License", f"{_SPDX}/ISC.html"),
        Licence("unlicense", "The Unlicense", f"{_SPDX}/Unlicense.html"),
        Licence("cc0-1.0", "CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/legalcode"),
        Licence("pddl", "Public Domain Dedication and License 1.0", "https://opendatacommons.org/licenses/pddl/1-0/"),
        Licence("odc-by", "ODC Attribution License 1.0", "https://opendatacommons.org/licenses/by/1-0/"),
        Licence("cdla-permissive-2.0", "CDLA Permissive 2.0", "https://cdla.dev/permissive-2-0/"),
        Licence("cc-by-3.0", "CC BY 3.0", f"{_CC}/by/3.0/legalcode"),
        Licence("cc-by-4.0", "CC BY 4.0", f"{_CC}/by/4.0/legalcode"),
        # Later versions and the licences that Creative Commons lists: https://creativecommons.org/compatiblelicenses
        Licence("cc-by-sa-3.0", "CC BY-SA 3.0", f"{_CC}/by-sa/3.0/legalcode", share_alike=True, also=("cc-by-sa-4.0",)),
        Licence("cc-by-sa-4.0", "CC BY-SA 4.0", f"{_CC}/by-sa/4.0/legalcode", share_alike=True, also=("gpl-3.0",)),
        Licence("odbl", "ODC Open Database License 1.0", "https://opendatacommons.org/licenses/odbl/1-0/",
                share_alike=True),
        Licence("gpl-3.0", "GNU GPL 3.0", "https://www.gnu.org/licenses/gpl-3.0.html", share_alike=True),
        Licence("agpl-3.0", "GNU AGPL 3.0", "https://www.gnu.org/licenses/agpl-3.0.html", share_alike=True),
        Licence("cc-by-nc-3.0", "CC BY-NC 3.0", f"{_CC}/by-nc/3.0/legalcode", commercial=False),
        Licence("cc-by-nc-4.0", "CC BY-NC 4.0", f"{_CC}/by-nc/4.0/legalcode", commercial=False),
        Licence("cc-by-nc-sa-3.0", "CC BY-NC-SA 3.0", f"{_CC}/by-nc-sa/3.0/legalcode", commercial=False,
                share_alike=True, also=("cc-by-nc-sa-4.0",)),
        Licence("cc-by-nc-sa-4.0", "CC BY-NC-SA 4.0", f"{_CC}/by-nc-sa/4.0/legalcode", commercial=False,
                share_alike=True),
        Licence("cc-by-nd-4.0", "CC BY-ND 4.0", f"{_CC}/by-nd/4.0/legalcode", derivatives=False),
        Licence("cc-by-nc-nd-4.0", "CC BY-NC-ND 4.0", f"{_CC}/by-nc-nd/4.0/legalcode", commercial=False,
                derivatives=False),
        Licence("llama3", "Llama 3 Community License", "https://www.llama.com/llama3/license/", own_terms=True),
        Licence("llama3.1", "Llama 3.1 Community License", "https://www.llama.com/llama3_1/license/", own_terms=True),
        Licence("llama3.2", "Llama 3.2 Community License", "https://www.llama.com/llama3_2/license/", own_terms=True),
        Licence("llama3.3", "Llama 3.3 Community License", "https://www.llama.com/llama3_3/license/", own_terms=True),
        Licence("gemma", "Gemma Terms of Use", "https://ai.google.dev/gemma/terms", own_terms=True),
    )
}  # fmt: skip
"""Every licence that anything is known of here, by the Hub's name."""

OTHER_NAMES = {
    "apache": "apache-2.0", "apache-2": "apache-2.0", "apache-license-2.0": "apache-2.0",
    "apache-license-version-2.0": "apache-2.0", "apache2.0": "apache-2.0", "apache2": "apache-2.0",
    "mit-license": "mit", "bsd-2": "bsd-2-clause", "bsd-3": "bsd-3-clause", "cc0": "cc0-1.0", "odc-by-1.0": "odc-by",
    "pddl-1.0": "pddl", "odbl-1.0": "odbl", "gpl-3.0-only": "gpl-3.0", "gpl-3.0-or-later": "gpl-3.0",
    "agpl-3.0-only": "agpl-3.0", "agpl-3.0-or-later": "agpl-3.0",
}  # fmt: skip
"""Other ways to write a licence of the table. A Creative Commons licence without its version is not one of them."""

FORBIDDEN_TO_LEARN_FROM = ("gpt-*", "o1*", "o3*", "o4-*", "chatgpt-*", "claude-*", "gemini-*")
"""Models that are services only and whose terms forbid training competing models on their answers, by name, for traces
that were imported: of a teacher that was asked here the manifest keeps the terms. Terms of OpenAI:
https://openai.com/policies/row-terms-of-use/ (unverified), Anthropic: https://www.anthropic.com/legal/commercial-terms
(unverified), Google: https://ai.google.dev/gemini-api/terms (read 2026-11-20)."""
OPEN_WEIGHTS = ("gpt-oss*",)
"""Names among those that are models anyone can run."""


def known(text: str | None) -> Licence | None:
    """The licence that a text names, or None: unknown, several, or one of several versions.

    >>> known("CC BY 4.0").id
    'cc-by-4.0'
    """
    if not text:
        return None
    folded = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.").removeprefix("the-")
    name = OTHER_NAMES.get(folded, folded)
    return TABLE.get(name) or TABLE.get(OTHER_NAMES.get(name.removesuffix("-license"), name.removesuffix("-license")))


def meets(source: Licence, chosen: Licence, use: Use) -> tuple[Answer, str]:
    """Whether a work under `source` may go into a release under `chosen`; and why not, or why that is unknown."""
    if not source.commercial and chosen.commercial:
        return "unfit", f"{source.title} is not for commercial use, which {chosen.title} allows"
    if not source.derivatives:
        if use == "training":
            return "unknown", f"{source.title} allows no adaptation, and whether a trained model is one is not settled"
        return "unfit", f"{source.title} allows no adaptation"
    if source.id == chosen.id:
        return "fits", ""
    if source.own_terms:
        if use == "weights":
            return "unfit", f"a model made from weights under the {source.title} goes on under it"
        return "unknown", f"no rule is known for material under the {source.title}"
    if source.share_alike and chosen.id not in source.also:
        if use == "training":
            return "unknown", (
                f"{source.title} asks for the same licence on adaptations, and whether a trained model is one is not "
                "settled"
            )
        return "unfit", f"{source.title} asks for the same licence"
    return "fits", ""


def fitting(sources: Iterable[tuple[str | None, Use]]) -> Licence | None:
    """The first of these sources' own licences that all of them fit, or None where none does or one is unknown."""
    given = [(known(text), use) for text, use in sources]
    found = [(licence, use) for licence, use in given if licence is not None]
    if len(found) < len(given):
        return None
    return next(
        (chosen for chosen, _ in found if all(meets(source, chosen, use)[0] == "fits" for source, use in found)), None
    )


def forbids_learning(model: str) -> bool:
    """Whether this name of a model that answered is that of a service whose terms forbid learning from it."""
    name = model.rstrip("/").rpartition("/")[2].lower()
    if any(fnmatchcase(name, pattern) for pattern in OPEN_WEIGHTS):
        return False
    return any(fnmatchcase(name, pattern) for pattern in FORBIDDEN_TO_LEARN_FROM)

"""How a verifier asks a model while answers are graded: through the ledger, paid for once, within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from distill import rollout
from distill.core.config import canonical
from distill.core.errors import DistillError
from distill.core.plugins import Choice
from distill.core.records import Problem, Sample, Sampling
from distill.core.stage import Workspace
from distill.rollout import Ask, Budget, Display
from distill.rollout.asks import Loaded, Standing


class Asker:
    """Implements `distill.core.protocols.AskModel`. A context manager: engines stay loaded until its end.

    A budget counts all that was asked of the same model in the same manner, whenever it was bought.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._loaded: dict[str, Loaded] = {}
        self._asked: dict[str, list[Ask]] = {}

    def __enter__(self) -> Asker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the engines. Safe to call twice."""
        while self._loaded:
            self._loaded.popitem()[1].close()

    def __call__(
        self,
        engine: Choice,
        model: str,
        problems: Sequence[Problem],
        n: int,
        sampling: Sampling,
        most_tokens: int | None,
    ) -> list[Sample]:
        """`n` answers to each problem, by problem and index; see `AskModel`. The problems are distinct."""
        if not problems:
            return []
        name = canonical([engine.keyed(), model])
        teacher = Standing(engine, model, loaded=self._loaded.setdefault(name, Loaded()))
        asks = [Ask(problem, range(n)) for problem in problems]
        so_far = self._asked.setdefault(canonical([name, sampling.keyed()]), [])
        so_far += asks if most_tokens is not None else []
        found: dict[tuple[str, int], Sample] = {}

        def keep(sample: Sample) -> None:
            found[sample.problem_id, sample.index] = sample

        filled = rollout.fill(
            so_far if most_tokens is not None else asks, sampling, teacher, self.workspace,
            label="judge", budget=Budget(tokens=most_tokens), display=Display("judge"), on_failure=keep,
        )  # fmt: skip
        if filled.spent_out:
            raise DistillError(
                f"judge: {filled.tokens:,} of {most_tokens:,} tokens (`max_total_tokens`) are spent, and judgements "
                "are missing; what was bought is kept. Raise the limit and run the same command again"
            )
        for sample in rollout.read(asks, sampling, teacher, self.workspace):
            found[sample.problem_id, sample.index] = sample
        return [found[problem.id, index] for problem in problems for index in range(n)]

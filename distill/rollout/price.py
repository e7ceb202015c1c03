"""The setting `price:` of a model that is paid for by the token."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, NonNegativeFloat

from distill.core.config import Settings
from distill.rollout.meter import Prices


class Price(Settings):
    """What a million tokens cost, in the currency of your budget."""

    input: NonNegativeFloat
    """Of the prompt."""
    output: NonNegativeFloat
    """Of the completion, thinking included."""

    @property
    def prices(self) -> Prices:
        """For the meter."""
        return Prices(self.input, self.output)


def _free(value: Any) -> Any:
    return Price(input=0.0, output=0.0) if value == "free" else value


PriceSetting = Annotated[Price | None, BeforeValidator(_free, json_schema_input_type=Price | Literal["free"] | None)]
"""`{input: 0.55, output: 2.19}`, or `free`; None: unknown."""

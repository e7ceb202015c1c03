"""How good is a model: samples, verdicts, rates with intervals."""

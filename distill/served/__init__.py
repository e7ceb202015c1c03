"""Buying answers over a network: one try, its limits and faults, and the scheduler that makes answers of tries."""

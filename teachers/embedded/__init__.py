"""The embedded teacher: a small real model that reasons step by step, and is sometimes wrong."""

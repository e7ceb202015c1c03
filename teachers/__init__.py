"""Sampling a teacher: policies, the sampling stage, scoring, and the embedded teacher."""

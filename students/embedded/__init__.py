"""The embedded base student: a small real model that knows single steps and has yet to learn to reason."""

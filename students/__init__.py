"""Training a student: rows, losses, adapters, the trainer, and the embedded base student."""

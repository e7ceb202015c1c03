"""From a trained model to files that run elsewhere, and the proof that they are the same model."""

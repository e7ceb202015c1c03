"""distill: turn a large reasoning model into a small one that runs where you are."""

"""Drawing tokens from a loaded model: noise and nucleus, a cache of ragged rows, batches that refill, steady shapes."""

"""text-dedup's MinHash on a JSON Lines file, in one process: its own functions for signatures, and its own clustering.

Called by benchmarks.filters in text-dedup's own environment; prints CPU seconds and rows kept as JSON. Reading and
writing of data sets is left out, which is in its favour.
"""

import json
import sys
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
from text_dedup.minhash import INDEX_COLUMN, RNG, SIGNATURE_COLUMN, embed_func, optimal_param, xxh3_32hash
from text_dedup.utils import UnionFind

path, threshold = sys.argv[1], float(sys.argv[3])
with Path(path).open(encoding="utf-8") as file:
    texts = [json.loads(line)["text"] for line in file]
num_perm, prime = 128, np.uint32((1 << 32) - 5)
bands, rows = optimal_param(threshold, num_perm, 0.5, 0.5)
ranges = [(n * rows, (n + 1) * rows) for n in range(bands)]
permutations = (
    RNG.randint(1, prime, size=(num_perm,), dtype=np.uint32),
    RNG.randint(0, prime, size=(num_perm,), dtype=np.uint32),
)
began_s = time.process_time()
tables: list[defaultdict[bytes, set[int]]] = [defaultdict(set) for _ in range(bands)]
for index, text in enumerate(texts):
    signed = embed_func(
        text, index, num_perm=num_perm, ngram_size=5, min_length=1, hashranges=ranges, permutations=permutations,
        hash_func=xxh3_32hash, dtype=np.uint32, max_hash=np.uint32((1 << 32) - 1), modulo_prime=prime,
    )  # fmt: skip
    for band, signature in enumerate(signed[SIGNATURE_COLUMN]):
        tables[band][signature].add(signed[INDEX_COLUMN])
union = UnionFind()
for table in tables:
    for cluster in table.values():
        if len(cluster) > 1:
            first = min(cluster)
            for other in cluster:
                union.union(other, first)
kept = sum(union.find(index) == index for index in range(len(texts)))
cpu_s = time.process_time() - began_s
print(json.dumps({"cpu_s": cpu_s, "kept": kept, "version": version("text-dedup")}))

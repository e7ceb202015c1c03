"""datatrove's MinHash deduplication on a JSON Lines file, in one process: its own four steps, one after the other.

Called by benchmarks.filters in datatrove's own environment; prints CPU seconds and rows kept as JSON.
"""

import json
import logging
import sys
import time
from importlib.metadata import version
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from loguru import logger

path, work = Path(sys.argv[1]), Path(sys.argv[2]) / "datatrove"
logger.remove()
logging.disable(logging.CRITICAL)
config = MinhashConfig(n_grams=5, num_buckets=16, hashes_per_bucket=8)  # 128 hashes, as ours
reader = JsonlReader(str(path.parent), glob_pattern=path.name)
steps = [
    [reader, MinhashDedupSignature(output_folder=f"{work}/signatures", config=config)],
    [MinhashDedupBuckets(input_folder=f"{work}/signatures", output_folder=f"{work}/buckets", config=config)],
    [MinhashDedupCluster(input_folder=f"{work}/buckets", output_folder=f"{work}/removed", config=config)],
    [reader, MinhashDedupFilter(input_folder=f"{work}/removed"), JsonlWriter(f"{work}/kept", compression=None)],
]
began_s = time.process_time()
for number, (step, tasks) in enumerate(zip(steps, (1, config.num_buckets, 1, 1), strict=True)):
    LocalPipelineExecutor(pipeline=step, tasks=tasks, workers=1, logging_dir=f"{work}/logs{number}").run()
cpu_s = time.process_time() - began_s
kept = sum(1 for file in (work / "kept").glob("*") for _ in file.open())
print(json.dumps({"cpu_s": cpu_s, "kept": kept, "version": version("datatrove")}))

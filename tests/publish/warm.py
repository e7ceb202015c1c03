"""Commands without their start-up: a process that has imported what publish and pull import, and forks for each.

Each command runs in a process of its own, through `distill.cli.main`, with huggingface_hub's real client. Only the
waits between our own tries are left out. Started by `process.HubProcess`; reads one JSON object a line: argv, cwd, env,
out, err (files), and answers with the exit status.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any

from distill.cli import main
from distill.publish import hub

for module in (
    "huggingface_hub.hf_api", "jinja2", "pyarrow.dataset", "pyarrow.parquet", "yaml", "distill.commands.publish",
    "distill.commands.pull", "distill.publish.asked", "distill.publish.send", "distill.publish.pull",
):  # fmt: skip
    importlib.import_module(module)
hub.WAITS_S = (0.0, 0.0)


def _child(task: dict[str, Any]) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(task[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.chdir(task["cwd"])
    os.environ.update(task["env"])
    sys.argv = ["distill", *task["argv"]]
    code: Any = 1
    try:
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def serve() -> None:
    """Until the input ends."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _child(json.loads(line))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()

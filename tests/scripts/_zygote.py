"""Forks a process for each job, with torch and trimtab loaded: importing them takes longer than a job.

A job is a line of JSON on standard input. The answers are its process number, then its exit status.
"""

import gc
import json
import os
import runpy
import sys

import torch

import trimtab.cli
from trimtab.__main__ import main

torch.set_num_threads(1)
assert trimtab.cli
torch.optim.SGD([torch.ones(1)], lr=0.1)  # the first optimizer loads the compiler
assert torch._dynamo
gc.freeze()  # a job need not go through all of this when it ends


def become(job: dict) -> None:
    """Be the process that was asked for: folder, files, arguments, environment."""
    os.chdir(job["folder"])
    for number, name in enumerate((os.devnull, "stdout", "stderr")):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        file = os.open(name if number == 0 else os.path.join(job["output"], name), flags)
        os.dup2(file, number)
    sys.argv[:] = job["argv"]


for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        become(job)
        if job["is_plain"]:
            sys.path[0] = os.path.dirname(sys.argv[0])
            runpy.run_path(sys.argv[0], run_name="__main__")
        else:
            main()
        break
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)

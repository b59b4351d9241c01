#!/bin/sh
# Paddle 3.3.1's gloo reports a peer that has closed its connection as "TIMEOUT", at once.
#
# Versions: paddlepaddle 3.3.1 on the CPU, Python 3.11, Linux; no network but PyPI.
# Guess: when process 1 ends while process 0 waits in an all_reduce, process 0 either waits for the time limit of the
#   group (30 minutes), or raises an error that says that the connection was closed.
# Behaviour: process 0 raises at once, and the message is "TIMEOUT self_rank = 0 pair_rank = 1", although no time
#   limit has passed: a longer one would change nothing. What to look for is the process that ended first.
#   (A connection that is reset, not closed, is called "Read error ...: Connection reset by peer".)
# Seen: "raised after 1.3 s: RuntimeError: [.../gloo/transport/tcp/pair.cc:584] TIMEOUT self_rank = 0 pair_rank = 1 ..."
# Exits with 0 while Paddle behaves so, with 1 once it does not. Takes 25 s of processor time and a download of 200 MB.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet paddlepaddle==3.3.1 setuptools==65.5.0

cat > job.py <<'END'
import time
from pathlib import Path

import paddle
import paddle.distributed as dist

paddle.set_device("cpu")
dist.init_parallel_env()
dist.barrier()
if dist.get_rank() == 1:
    time.sleep(2)  # process 0 waits by then
    Path("left").write_text(str(time.time()))
else:
    try:
        dist.all_reduce(paddle.ones([1000]))
    except RuntimeError as error:
        seconds = time.time() - float(Path("left").read_text())
        Path("raised").write_text(f"raised after {seconds:.1f} s: RuntimeError: {error}\n")
        Path("quick").write_text(str(seconds < 60))
END
venv/bin/python -m paddle.distributed.launch --nproc_per_node 2 --log_dir logs job.py > output 2>&1 || true
cat raised || { echo "no error was raised"; exit 1; }
if grep -q "TIMEOUT self_rank = 0 pair_rank = 1" raised && grep -q True quick; then
    exit 0
fi
echo "Paddle behaves otherwise now"
exit 1

#!/bin/sh
# Paddle 3.3.1's launcher does not pass on the exit code of the process that failed, if that is not the first one.
#
# Versions: paddlepaddle 3.3.1 on the CPU, Python 3.11, Linux; no network but PyPI.
# Guess: `python -m paddle.distributed.launch --nproc_per_node 2` exits with the code of the process that failed,
#   so with 7 when process 1 calls sys.exit(7) while process 0 is still at work.
# Behaviour: the launcher ends process 0 with SIGTERM, then exits with the code of the first process, in the order
#   of ranks, whose code is not 0. That is process 0's -15, hence 241: the 7 is in a log line alone. When process 0
#   is the one that calls sys.exit(7), the launcher does exit with 7. (launch/job/pod.py, Pod.exit_code)
# Seen: "process 0 exits with 7: the launcher exits with 7", "process 1 exits with 7: the launcher exits with 241".
# Exits with 0 while Paddle behaves so, with 1 once it does not. Takes 25 s of processor time and a download of 200 MB.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet paddlepaddle==3.3.1 setuptools==65.5.0

cat > job.py <<'END'
import os
import sys
import time

if os.environ["PADDLE_TRAINER_ID"] == sys.argv[1]:
    sys.exit(7)
time.sleep(60)
END

launch() {
    code=0
    venv/bin/python -m paddle.distributed.launch --nproc_per_node 2 --log_dir logs job.py "$1" > output 2>&1 || code=$?
    echo "process $1 exits with 7: the launcher exits with $code"
}

launch 0
first=$code
launch 1
second=$code
grep -o "Container rank 1 status failed.*code 7" output | sed 's/cmd .* code/... code/' || true
if [ "$first" = 7 ] && [ "$second" = 241 ]; then
    exit 0
fi
echo "Paddle behaves otherwise now"
exit 1

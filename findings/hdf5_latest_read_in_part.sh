#!/bin/sh
# A file that h5py 3.16.0 wrote with libver="latest" opens in h5py 3.8.0, which reads some of its data sets and misses others.
#
# Versions: h5py 3.16.0 (HDF5 2.0.0) writes, h5py 3.8.0 (HDF5 1.12.2) reads, numpy 1.26.4, Python 3.11, Linux; no
#   network but PyPI.
# Guess: a file in a format that is too new is refused when it is opened. What opens can be read.
# Behaviour: the file opens, its names are listed, and a contiguous data set is read. A compressed one and one of booleans
#   raise KeyError ("bad version number for layout message", "... datatype message"), the exception of a name that is
#   not there, which code takes for a gap. A program that reads only ids and boxes notices
#   nothing. Without libver, or with libver="v114", all are read.
# Seen: "default: ids read, boxes read, features read, seen read", "latest: ids read, boxes read, features KeyError, seen KeyError".
# Exits with 0 while h5py behaves so, with 1 once it does not. Takes 10 s of processor time and a download of 30 MB.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
for version in 3.16.0 3.8.0; do
    "${PYTHON:-python3}" -m venv venv-$version
    venv-$version/bin/pip install --quiet h5py==$version numpy==1.26.4
done

venv-3.16.0/bin/python - <<'END'
import h5py
import numpy as np

for name, options in (("default", {}), ("latest", {"libver": "latest"})):
    with h5py.File(f"{name}.h5", "w", **options) as file:
        file["ids"] = ["a.jpg", "b.jpg"]
        file["boxes"] = np.zeros((2, 4), np.float32)
        file.create_dataset("features", data=np.zeros((8, 4), np.float32), chunks=(2, 4), compression="gzip")
        file["seen"] = np.array([True, False])
END
cat > read.py <<'END'
import sys

import h5py

found = {}
for name in ("default", "latest"):
    with h5py.File(f"{name}.h5") as file:
        for key in ("ids", "boxes", "features", "seen"):
            assert key in file
            try:
                file[key][()]
                found[name, key] = "read"
            except KeyError:
                found[name, key] = "KeyError"
    print(f"{name}: " + ", ".join(f"{key} {how}" for (file, key), how in found.items() if file == name))
failed = [pair for pair, how in found.items() if how != "read"]
sys.exit(failed != [("latest", "features"), ("latest", "seen")])
END
if venv-3.8.0/bin/python read.py; then
    exit 0
fi
echo "h5py behaves otherwise now"
exit 1

#!/bin/sh
# FAISS lists the vector that was added last first among equal ones; a graph did so not in 1.8.0, and does in 1.15.1.
#
# Versions: faiss-cpu 1.8.0 writes, 1.8.0 and 1.15.1 read, numpy 1.26.4, Python 3.11, Linux; no network but PyPI.
# Guess: equal scores come in the order of the rows, as after a stable sort, and one index file gives one answer in every version.
#   Who cuts the list at k inside a tie (copies of a picture, the same sentence of several pictures) gets the first.
# Behaviour: IndexFlat gives the highest row number first, in both versions, so that a cut keeps the copies that came last. The
#   graph of the same file (HNSW) gives the lowest first in 1.8.0 and the highest first in 1.15.1. The two best of three
#   equal rows are thus other items after an upgrade, with equal scores.
# Seen: "1.8.0: Flat [3000, 100, 7], HNSW [7, 100, 3000]", "1.15.1: Flat [3000, 100, 7], HNSW [3000, 100, 7]".
# Exits with 0 while FAISS behaves so, with 1 once it does not. Takes 15 s of processor time and a download of 50 MB.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
for version in 1.8.0 1.15.1; do
    "${PYTHON:-python3}" -m venv venv-$version
    venv-$version/bin/pip install --quiet faiss-cpu==$version numpy==1.26.4 packaging==26.4
done

cat > vectors.py <<'END'
import numpy as np

ROWS = np.random.default_rng(0).standard_normal((4000, 64)).astype(np.float32)
ROWS /= np.linalg.norm(ROWS, axis=1, keepdims=True)
ROWS[100] = ROWS[3000] = ROWS[7]
END
cat > write.py <<'END'
import faiss
from vectors import ROWS

for kind in ("Flat", "HNSW16"):
    index = faiss.index_factory(64, kind, faiss.METRIC_INNER_PRODUCT)
    index.add(ROWS)
    faiss.write_index(index, kind)
END
cat > read.py <<'END'
import faiss
from vectors import ROWS

found = []
for kind in ("Flat", "HNSW16"):
    scores, rows = faiss.read_index(kind).search(ROWS[7:8], 3)
    assert len(set(scores[0])) == 1
    found.append(f"{kind.rstrip('16')} {rows[0].tolist()}")
print(f"{faiss.__version__}: {', '.join(found)}")
END
venv-1.8.0/bin/python write.py
for version in 1.8.0 1.15.1; do
    venv-$version/bin/python read.py
done > found
cat found
cat > expected <<'END'
1.8.0: Flat [3000, 100, 7], HNSW [7, 100, 3000]
1.15.1: Flat [3000, 100, 7], HNSW [3000, 100, 7]
END
if cmp -s found expected; then
    exit 0
fi
echo "FAISS behaves otherwise now"
exit 1

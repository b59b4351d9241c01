#!/bin/sh
# h5py 3.16.0 (HDF5 2.0.0) writes an attribute of 65,497 to 65,503 bytes without an error, and the file is lost.
#
# Versions: h5py 3.16.0, whose wheel brings HDF5 2.0.0, numpy 1.26.4, Python 3.10 to 3.12, Linux; no network but PyPI.
# Guess: an attribute in the object header is stored if it fits into 64 kB, and refused when it is written if not. That
#   matters for whoever keeps a record, such as JSON, in the attributes of a file of features.
# Behaviour: up to 65,496 bytes of a fixed-length string are stored, from 65,504 on they are refused ("object header
#   message is too large"). The seven sizes between are accepted, the file is closed without an error, and it cannot be
#   opened again ("message not aligned"): neither the attribute nor any data set in it. The limit is checked before the
#   size is rounded up to a multiple of 8. Text as a str (of variable length) lies elsewhere in the file, and is
#   stored at every size that was tried, and so is a data set; both are ways out.
# Seen: "65496: stored", "65497: lost (message not aligned)", "65503: lost (message not aligned)",
#   "65504: refused (object header message is too large)", "65500 as a str: stored", "65500 as a data set: stored".
# Exits with 0 while h5py behaves so, with 1 once it does not. Takes 5 s of processor time and a download of 25 MB.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet h5py==3.16.0 numpy==1.26.4

cat > attributes.py <<'END'
import re
import sys

import h5py
import numpy as np


def outcome(name, write):
    """Write a file with data, read it again, and tell what became of it."""
    try:
        with h5py.File("a.h5", "w") as file:
            file["features"] = np.arange(3)
            write(file)
    except OSError as error:
        return f"{name}: refused {re.search(r'[(].*[)]', str(error))[0]}"
    try:
        with h5py.File("a.h5") as file:
            return f"{name}: {'stored' if file['features'][2] == 2 else 'changed'}"
    except OSError as error:
        return f"{name}: lost {re.search(r'[(].*[)]', str(error))[0]}"


def attribute(size):
    return outcome(size, lambda file: file.attrs.create("record", np.bytes_(b"a" * size)))


found = [attribute(size) for size in (65496, 65497, 65503, 65504)]
found.append(outcome("65500 as a str", lambda file: file.attrs.create("record", "a" * 65500)))
found.append(outcome("65500 as a data set", lambda file: file.create_dataset("record", data=np.bytes_(b"a" * 65500))))
print("\n".join(found))
lost = "lost (message not aligned)"
expected = ["65496: stored", f"65497: {lost}", f"65503: {lost}"]
expected += ["65504: refused (object header message is too large)"]
sys.exit(found != expected + ["65500 as a str: stored", "65500 as a data set: stored"])
END

venv/bin/python attributes.py

#!/bin/sh
# Milvus Lite 3.2.2 takes the number 1 in a JSON field for true, and has no opposite of "a key is missing".
#
# Versions: milvus-lite 3.2.2, pymilvus 3.0.2, Python 3.11, Linux; no network but PyPI.
# Guess: `field["seen"] == true` finds the items whose value is JSON's true, and `not (field["seen"] == true)` finds
#   all others, those without the key as well, as a Milvus server (2.3.5) does.
# Behaviour: the first finds the item with the number 1, too (and `== 1` the one with true). The second leaves out the
#   items that lack the key, so a condition and its opposite together do not find all items. What a development folder
#   finds is then not what the server finds. Written as `not (exists field["seen"]) or not (...)`, the opposite is
#   right in both.
# Seen: "true: ['one', 'yes']; opposite: ['no']; written with exists: ['no', 'none']".
# Exits with 0 while Milvus Lite behaves so, with 1 once it does not. Takes 10 s and a download of 100 MB.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet milvus-lite==3.2.2 pymilvus==3.0.2

cat > truth.py <<'END'
import sys

from pymilvus import DataType, MilvusClient

client = MilvusClient("truth.db")
schema = client.create_schema(auto_id=False)
schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=10)
schema.add_field("field", DataType.JSON)
schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
index = client.prepare_index_params()
index.add_index("vector", index_type="FLAT", metric_type="IP")
client.create_collection("items", schema=schema, index_params=index)
values = {"yes": {"seen": True}, "no": {"seen": False}, "one": {"seen": 1}, "none": {}}
client.insert("items", [{"id": name, "field": field, "vector": [1.0, 0.0]} for name, field in values.items()])
client.load_collection("items")


def found(condition):
    return sorted(row["id"] for row in client.query("items", filter=condition, output_fields=["id"]))


true = found('field["seen"] == true')
opposite = found('not (field["seen"] == true)')
written = found('not (exists field["seen"]) or not (field["seen"] == true)')
print(f"true: {true}; opposite: {opposite}; written with exists: {written}")
sys.exit(0 if (true, opposite, written) == (["one", "yes"], ["no"], ["no", "none"]) else 1)
END
venv/bin/python truth.py 2>/dev/null || { echo "Milvus Lite behaves otherwise now"; exit 1; }

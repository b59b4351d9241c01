#!/bin/sh
# Milvus Lite 3.2.2 takes what a Milvus server (2.3.5) refuses, and answers a pattern with "_" otherwise.
#
# Versions: milvus-lite 3.2.2, pymilvus 3.0.2, Python 3.11, Linux; no network but PyPI.
# Guess: the file on a laptop and the server in production take the same requests through the same client, or differ in speed and
#   size alone. `max_length` of a VARCHAR counts the same unit, a search has the same largest limit, and a vector of NaN is refused.
# Behaviour: Lite counts characters, the server bytes: eleven letters é are 22 bytes, and are refused there with max_length=20.
#   Lite takes a limit of 16,385, the server at most 16,384. Lite stores a vector of NaN, which a search lists with the score NaN;
#   the server refuses it. In `like`, "_" stands for any one character in Lite, and for itself on the server: "p_" finds p1 to p9
#   here and nothing there. Without an order, a query gives rows as they came in Lite, and by their text keys on the server.
# Seen: "11 letters of 22 bytes in 20: stored", "limit 16385: 12 rows", "NaN: stored, a hit with the score nan",
#   "like p_: 10 rows", "order: p0 p1 p2". (The server: refused, refused, refused, 0 rows, p0 p1 p10.)
# Exits with 0 while Milvus Lite behaves so, with 1 once it does not. Takes 10 s and a download of 100 MB.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet milvus-lite==3.2.2 pymilvus==3.0.2

cat > more.py <<'END'
import logging
import sys

from pymilvus import DataType, MilvusClient, MilvusException

logging.disable(logging.CRITICAL)
client = MilvusClient("more.db")
schema = client.create_schema(auto_id=False)
schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=20)
schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
index = client.prepare_index_params()
index.add_index("vector", index_type="FLAT", metric_type="IP")
client.create_collection("items", schema=schema, index_params=index, consistency_level="Strong")
client.insert("items", [{"id": f"p{number}", "vector": [1.0, number / 10]} for number in range(12)])
client.load_collection("items")


def told(request):
    try:
        return request()
    except MilvusException:
        return "refused"


def store(name, vector):
    client.insert("items", [{"id": name, "vector": vector}])
    return "stored"


order = [row["id"] for row in client.query("items", filter='id like "p%"', limit=3)]
pattern = len(client.query("items", filter='id like "p_"', limit=100))
limit = told(lambda: f"{len(client.search('items', data=[[1.0, 0.0]], limit=16385)[0])} rows")
nan = told(lambda: store("nan", [float("nan"), 0.0]))
scores = {hit["id"]: hit["distance"] for hit in client.search("items", data=[[1.0, 0.0]], limit=100)[0]}
nan = f"{nan}, a hit with the score {scores.get('nan')}"
letters = told(lambda: store("é" * 11, [0.0, 1.0]))
found = {
    "11 letters of 22 bytes in 20": letters,
    "limit 16385": limit,
    "NaN": nan,
    "like p_": f"{pattern} rows",
    "order": " ".join(order),
}
for name, value in found.items():
    print(f"{name}: {value}")
expected = ["stored", "12 rows", "stored, a hit with the score nan", "10 rows", "p0 p1 p2"]
sys.exit(list(found.values()) != expected)
END
if venv/bin/python more.py 2>/dev/null; then
    exit 0
fi
echo "Milvus Lite behaves otherwise now"
exit 1

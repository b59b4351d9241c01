"""Indexes in a Milvus: a server or cluster, or a folder of Milvus Lite."""

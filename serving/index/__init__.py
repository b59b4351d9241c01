"""Collections of vectors on the disk or in Milvus: built, changed, and searched without Paddle."""

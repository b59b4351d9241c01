"""Which captions belong to which image, from every format of caption files; `load.py` lists the formats."""

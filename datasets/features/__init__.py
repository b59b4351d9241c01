"""Files of image features in every format, read by row; `formats.py` lists the formats."""

"""All layers of a BERT as one node of autograd on the CPU, on rows without padding."""

"""Counts the protocols of papers from scores that anybody made: COCO, CxC, ECCV Caption, PMRP, nDCG."""

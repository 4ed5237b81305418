"""Segmentation networks made by hand, with which searched ones are compared."""

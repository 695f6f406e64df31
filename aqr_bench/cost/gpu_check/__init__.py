"""Checks of a GPU machine in one call: python -m aqr_bench gpu-check."""

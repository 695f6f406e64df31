"""Samples in 3D: what a model gets and detects, as a page of HTML or as a recording for the Rerun viewer."""

"""Data set preparation and the mmdet3d transforms of the project (``aqr_bench.data.transforms`` registers them)."""

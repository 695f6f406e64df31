"""Data set preparation and the mmdet3d transforms of the project (``aqr_bench.data.transforms`` registers them)."""

# Versions of nuScenes that have labels, and the names of their splits for training and for evaluation.
SPLITS = {"v1.0-trainval": ("train", "val"), "v1.0-mini": ("mini_train", "mini_val")}

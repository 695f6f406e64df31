"""Cross Modal Transformer as an mmdet3d 1.4 plugin: ``custom_imports = dict(imports=['aqr_bench.cmt'])``."""

from aqr_bench import compat

compat.prepare()

# Each registers its classes with mmdet3d.
from aqr_bench.cmt import assigner, coder, detector, head, heatmap_loss, neck, pillars, task_head, transformer, vovnet  # noqa: E402, F401

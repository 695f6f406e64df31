"""Cross Modal Transformer as an mmdet3d 1.4 plugin: ``custom_imports = dict(imports=['aqr_bench.cmt'])``."""

from aqr_bench import compat

compat.prepare()

# Each registers its classes with mmdet3d.
from aqr_bench.cmt import (  # noqa: E402
    assigner,  # noqa: F401
    coder,  # noqa: F401
    detector,  # noqa: F401
    head,  # noqa: F401
    heatmap_loss,  # noqa: F401
    multi_expert_head,  # noqa: F401
    neck,  # noqa: F401
    pillars,  # noqa: F401
    task_head,  # noqa: F401
    transformer,  # noqa: F401
    vovnet,  # noqa: F401
)

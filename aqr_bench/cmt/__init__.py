"""Cross Modal Transformer as an mmdet3d 1.4 plugin: ``custom_imports = dict(imports=['aqr_bench.cmt'])``."""

from aqr_bench import compat

compat.prepare()

from aqr_bench.cmt.assigner import HungarianAssigner3D  # noqa: E402
from aqr_bench.cmt.coder import MultiTaskBBoxCoder  # noqa: E402
from aqr_bench.cmt.detector import CmtDetector  # noqa: E402
from aqr_bench.cmt.head import CmtHead, CmtImageHead, CmtLidarHead  # noqa: E402
from aqr_bench.cmt.heatmap_loss import AuxiliaryHeatmaps  # noqa: E402
from aqr_bench.cmt.neck import CPFPN  # noqa: E402
from aqr_bench.cmt.pillars import SparsePillarFeatureNet  # noqa: E402
from aqr_bench.cmt.task_head import SeparateTaskHead  # noqa: E402
from aqr_bench.cmt.transformer import CmtTransformer  # noqa: E402
from aqr_bench.cmt.vovnet import VoVNet  # noqa: E402

__all__ = [
    "CPFPN",
    "AuxiliaryHeatmaps",
    "CmtDetector",
    "CmtHead",
    "CmtImageHead",
    "CmtLidarHead",
    "CmtTransformer",
    "HungarianAssigner3D",
    "MultiTaskBBoxCoder",
    "SeparateTaskHead",
    "SparsePillarFeatureNet",
    "VoVNet",
]

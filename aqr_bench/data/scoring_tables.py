"""The nuScenes tables as far as detections are scored with them: of recordings and poses the keyframes of the LiDAR.

nuScenes trainval has 2.6 million recordings and as many poses, of which scoring reads 34 thousand; the devkit makes
Python objects of all of them, 2.2 kB for a recording with its pose.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from nuscenes import NuScenes

from aqr_bench.data.complete_scenes import LIDAR


class _Recording(msgspec.Struct, gc=False):
    calibrated_sensor_token: str
    is_key_frame: bool


class _Pose(msgspec.Struct, gc=False):
    token: str


class ScoringTables(NuScenes):
    """NuScenes, whose ``sample_data`` and ``ego_pose`` have the rows of LiDAR keyframes alone.

    Tables that are not as nuScenes' are loaded as a whole, so that the devkit reports what is wrong with them.
    """

    def __load_table__(self, table_name: str) -> Any:
        try:
            if table_name == "sample_data":
                return self._keyframes
            if table_name == "ego_pose":
                poses = {row["ego_pose_token"] for row in self._keyframes}
                return self._rows(table_name, _Pose, lambda pose: pose.token in poses)
        except (msgspec.MsgspecError, KeyError, TypeError, RecursionError):
            pass
        return super().__load_table__(table_name)

    @cached_property
    def _keyframes(self) -> list[dict]:
        channels = {sensor["token"]: sensor["channel"] for sensor in self.sensor}
        lidar = {row["token"] for row in self.calibrated_sensor if channels[row["sensor_token"]] == LIDAR}
        return self._rows(
            "sample_data", _Recording, lambda row: row.is_key_frame and row.calibrated_sensor_token in lidar
        )

    def _rows(self, table: str, kind: type, keep: Callable[[Any], bool]) -> list[dict]:
        """The rows that ``keep`` takes; of the others no objects are made but ``kind``, one at a time."""
        content = (Path(self.table_root) / f"{table}.json").read_bytes()
        decode = msgspec.json.Decoder(kind).decode
        return [
            msgspec.json.decode(raw)
            for raw in msgspec.json.decode(content, type=list[msgspec.Raw])
            if keep(decode(raw))
        ]

"""Weather on one LiDAR cloud: fog, snow, rain and wet ground by physical models integrated here."""

from aqr_bench.corruptions.lidar_fog import backscatter, fog
from aqr_bench.corruptions.lidar_rain import rain
from aqr_bench.corruptions.lidar_snow import occupancy, rain_rate, snow
from aqr_bench.corruptions.lidar_wet_ground import wet_ground

__all__ = ["backscatter", "fog", "occupancy", "rain", "rain_rate", "snow", "wet_ground"]

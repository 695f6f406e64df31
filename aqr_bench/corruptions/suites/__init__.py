"""Published sets of corruptions, one module each: what a corruption does to a frame, and its entries."""

from aqr_bench.corruptions.suites import (
    missing_sensors,
    msc_bench,
    multicorrupt,
    nuscenes_c,
    nuscenes_r,
    occluded_nuscenes,
)

SUITES = (missing_sensors, nuscenes_r, multicorrupt, nuscenes_c, msc_bench, occluded_nuscenes)

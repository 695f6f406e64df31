"""A synthetic driving world, written as a genuine nuScenes v1.0 data set.

``python -m aqr_bench.world --tier TIER.yaml --out ROOT`` writes it; ``spec.WorldSpec`` says what can be chosen.
Start reading at ``scene.simulate`` (who is there), ``lidar.scan`` and ``camera.photograph`` (what the sensors see),
``tables`` (how nuScenes puts it) and ``write.write_world`` (how it gets to disk).
"""

"""A synthetic driving world, written as a genuine nuScenes v1.0 data set.

``python -m aqr_bench.world --tier TIER.yaml --out ROOT`` writes it; ``spec.WorldSpec`` says what can be chosen.
Start reading at ``scene.simulate`` (who is there: ``road``, ``scenery``, ``placement``), ``lidar.scan`` and
``camera.photograph`` (what the sensors see; ``rays`` has the inner loops), ``tables`` (how nuScenes puts it) and
``write.write_world`` (how it gets to disk). ``statistics`` counts what came out; docs/world.md shows it.
"""

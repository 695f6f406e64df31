"""A synthetic driving world, written as a genuine nuScenes v1.0 data set.

``aqr-bench world --tier TIER.yaml --out ROOT`` writes it; ``spec.WorldSpec`` has the options.
Start reading at ``scene.simulate`` (objects and streets: ``road``, ``scenery``, ``placement``), ``lidar.scan`` and
``camera.render`` (what the sensors see; ``rays`` has the inner loops), ``tables`` (records of nuScenes) and
``write.write_world`` (files). ``statistics`` counts the result; docs/world.md shows it.
"""

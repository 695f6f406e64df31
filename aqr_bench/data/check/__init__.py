"""Is a nuScenes root complete and consistent, before anything runs on it? Start reading at check.py."""

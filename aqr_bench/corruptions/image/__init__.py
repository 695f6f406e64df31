"""Corruptions of one camera image: blur, light, noise, weather, dirt on the lens."""

"""Attention with a window bias: one interface, several equal backends."""

"""Records become tables, figures and one page. Run as ``python -m aqr_bench.report``."""

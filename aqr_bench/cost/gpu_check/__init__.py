"""Everything worth knowing on a GPU machine, in one call of under eight minutes: python -m aqr_bench gpu-check."""

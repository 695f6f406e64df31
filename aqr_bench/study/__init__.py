"""What is asked: tiers, studies, variants, suites and the runs that follow from them. Needs no torch."""

"""What came out: records, their provenance, the cache of finished work, differences between records."""

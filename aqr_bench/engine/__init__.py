"""Studies become records: config, training, evaluation, weights."""

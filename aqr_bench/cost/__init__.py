"""What a model costs: time, memory, arithmetic and parameters, each measured by a part of its own."""

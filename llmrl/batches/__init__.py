"""From experience to tensors: collation, micro-batches, balance over ranks."""

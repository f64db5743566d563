"""Reading what a response says its answer is."""

"""The processes that rewards run in, and their verdicts."""

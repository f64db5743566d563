"""The processes that rewards run in, and what they say."""

"""The answers in responses: reading what a response gives as its answer."""

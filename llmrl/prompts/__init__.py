"""What the policy is asked: datasets and tasks, tokenized, in an endless reproducible order."""

from llmrl.prompts import dialogues as _dialogues  # registers the tasks of several turns

del _dialogues

"""The policy's prompts: datasets and tasks, tokenized, in an endless reproducible order."""

from llmrl.prompts import dialogues as _dialogues  # registers the tasks of several turns
from llmrl.prompts import pair_tasks as _pair_tasks  # registers the tasks with a wrong working
from llmrl.prompts import tool_tasks as _tool_tasks  # registers the tasks for tools

del _dialogues, _pair_tasks, _tool_tasks

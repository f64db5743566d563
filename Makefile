# quickstart and test are the two commands of the README: each alone, on a machine with Python 3.11 to 3.13 and
# nothing else, fills .venv and runs. docs/installation.md says what install does, and how to do it by hand.
.PHONY: install quickstart test lint bench

install:
	@launch/install.sh

# The quickstart is sized for two cores, and its engine and policy would want a GPU each.
quickstart:
	@LLMRL_ACCELERATOR=cpu launch/install.sh
	.venv/bin/llmrl train recipes/quickstart/digits.toml --fresh

# On two cores two files at a time end in 23 minutes, one at a time in 41.
test: install
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=40 --durations-min=3

lint: install
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/pyright

bench: install
	.venv/bin/python -m tests.speed.table

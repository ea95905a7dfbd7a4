.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
# Tracing and the kernel tests need root.
AS_ROOT := $(if $(filter-out 0,$(shell id -u)),sudo -E)
# Processes that tests run in, a file of them at a time: most of the time they wait for TCP's timers.
WORKERS ?= 4
C_FILES := $(wildcard bpf/*.c bpf/*.h)

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: install
install: ## Make .venv and install what is missing (system packages as root, with apt)
	@deploy/install-deps.sh

.PHONY: run
run: install ## Trace every pod of this node; ARGS="..." adds options
	@$(AS_ROOT) $(BIN)/synsent-trace --node $(ARGS)

.PHONY: demo
demo: install ## Show six ways to be stuck, made in network namespaces, on the screen
	@$(AS_ROOT) $(BIN)/python -m tests.demo $(ARGS)

.PHONY: test
test: install ## Run all tests, those on the real kernel too; ARGS="..." goes to pytest
	@$(AS_ROOT) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

.PHONY: check
check: install ## Lint, formatting, types, import rules
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --quiet --check
	@$(BIN)/mypy --no-error-summary
	@log=$$($(BIN)/lint-imports --no-cache 2>&1) || { echo "$$log"; exit 1; }
	@$(BIN)/clang-format --dry-run -Werror $(C_FILES)
	@echo "check: ok"

.PHONY: bench
bench: install ## Measure delay, loss and cost on this machine
	@$(AS_ROOT) $(BIN)/python -m tests.bench $(ARGS)

.PHONY: fmt
fmt: install ## Reformat Python and C, fix what ruff can fix
	@$(BIN)/ruff check --quiet --fix-only
	@$(BIN)/ruff format --quiet
	@$(BIN)/clang-format -i $(C_FILES)

.PHONY: schema
schema: install ## Write the JSON Schema from the table of fields
	@$(BIN)/python -m tracer.schema >tracer/synsent-events.schema.json.new
	@mv tracer/synsent-events.schema.json.new tracer/synsent-events.schema.json

.PHONY: clean
clean: ## Remove everything that make made, .venv too
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

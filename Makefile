# make book       build the book; says where to open it
# make test       run the tests, the built site in a browser included
# make notebooks  run the chapters again and store their outputs
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: book test notebooks clean

book: $(READY)
	$(BIN)/jupyter-book build . -W -n --keep-going
	@echo "Open file://$(CURDIR)/_build/html/index.html"

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal --durations 15 tests

notebooks: $(READY)
	$(BIN)/python book/_tools/run_notebooks.py

$(READY): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

clean:
	rm -rf _build book/_assets/mathjax

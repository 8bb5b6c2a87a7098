# make book       build the book; says where to open it
# make test       run the tests, the built site in a browser included
# make notebooks  run the chapters again and store their outputs
# make pdf        print the built book to one PDF (needs chromium)
# make audit      weigh, time and check every page of the built book (needs chromium)
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: book test notebooks pdf audit clean

book: $(READY)
	$(BIN)/jupyter-book build . -W -n --keep-going
	@echo "Open file://$(CURDIR)/_build/html/index.html"

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal --durations 15 tests

notebooks: $(READY)
	$(BIN)/python book/_tools/run_notebooks.py

pdf: book
	$(BIN)/python book/_tools/pdf.py

audit: book
	$(BIN)/python book/_tools/audit.py

$(READY): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

clean:
	rm -rf _build book/_assets/mathjax

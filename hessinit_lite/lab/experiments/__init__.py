"""The book's long experiments: settings, measurements and stored answers, a file a chapter.

Each has `run(size="quick", progress=False)`, which computes what is not stored yet and returns what
its chapter draws from. `python -m hessinit_lite.lab.experiments mnist --size full` runs one from
the command line; interrupt it, and the next call goes on. `--left` says what is left, `--only
depth=10 activation=relu` computes some of it.
"""

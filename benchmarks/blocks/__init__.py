"""What the generated blocks of README.md and docs/ say, a module a kind of page.

A block is a function of ``load`` (a result by its name in results/, or None where there is none) that gives Markdown,
under ``@block``; the pages ask for it by its name. ``report.py`` writes them.
"""

"""What the speed claims rest on: ours, the bare limit under it and others that do the same, measured in turn.

`subjects/` says what is measured, `bare.py` holds the limits and `peers/` the others; `children.py` runs each of them in a
process of its own. `sheet.py` takes the numbers, `page.py` and `pictures.py` bring them into docs/performance.md.
"""

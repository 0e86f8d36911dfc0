"""The card of a data set: what it holds, what was filtered, and how far its split can be trusted.

`numbers` takes them from a data module; `tables` and `page` show them. `python -m seqgen.data` makes a card from the
command line.
"""

"""`python -m seqgen.compare`: what may be compared, what it costs, and the rounds it is carried out in."""

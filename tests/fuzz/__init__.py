"""Fuzzing: random and damaged input of many kinds, of which none may do anything unforeseen.

A target is a module of this package with `cases(seed)`, an iterator of (name, run) or (name, run, mentions):
`run()` returns, or raises a stated error of one line; where `mentions` are given, that line holds one of them.
Anything else is a fault. `QUICK` is how many cases of seed 0 `make test` tries. `make fuzz` goes through seeds for an
hour, or for FUZZ_MINUTES.
"""

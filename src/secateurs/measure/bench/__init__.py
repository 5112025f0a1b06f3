"""Bench: the receipt of a network on this machine: every runtime in its own process, interleaved in one run.

prepared.py makes what all contenders read, contenders.py opens and runs them, worker.py is the process of one,
processes.py speaks with it, running.py lets them take turns, results.py holds what came out,
plan.py asks before pruning.
"""

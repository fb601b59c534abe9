"""Processes that compute one model together (tensor and pipeline parallel), or one job with several engines (data parallel).

group.py    the ranks as a layer sees them: all_reduce, gather; one rank is the trivial case
stages.py   which layers a stage of a pipeline has, and which ranks it has
channel.py  hidden states from one stage to the next
shared_memory.py   both for ranks on a CPU, through memory that they share
met.py      those that a rank exchanges with
sizes.py    which numbers of ranks a model can be shared by, and what each rank holds
wire.py     frames of bytes and of ints between the parent and its processes
worker.py   what such a process runs: `python -m infer.core.parallel.worker`
ranks.py    the parent's side: starts processes, watches them, ends them
watch.py    the end of a wait for a GPU whose other ranks are gone
children.py, descriptors.py   what any process of ours starts with: imports, signals, the first three descriptors
"""

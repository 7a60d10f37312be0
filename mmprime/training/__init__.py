"""Floor 3: what turns a task and a config into trained weights.

``schema``/``config`` typed configs · ``task`` what can be trained · ``loop`` the Trainer · ``data_order`` and ``rng``
pure functions of (seed, step) · ``checkpoint`` and ``ema`` what survives a kill · ``resume``, ``changes`` how a start
goes on · ``run_folder`` the folder's records · ``distributed`` several processes · ``log`` JSONL, TensorBoard,
progress · ``*_task`` the tasks. Importing this package imports nothing else.
"""

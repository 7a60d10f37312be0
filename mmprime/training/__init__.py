"""What turns a task and a config into trained weights.

``schema``, ``config``, ``config_checks``, ``renamed`` typed configs · ``build`` their names become objects · ``task``,
``tasks`` what can be trained · ``trainer``, ``step`` the loop · ``objective``, ``conditions``, ``model`` a diffusion
model's · ``corpus``, ``examples`` its data, ``codec_sources`` its codecs · ``data_order``, ``rng`` pure functions of
(seed, step) · ``optim`` optimizers and averaged weights · ``state``, ``checkpoint`` what survives a kill · ``changes``
how a start goes on · ``run_folder``, ``log``, ``samples`` records · ``distributed``, ``signals`` processes. Importing
this package imports nothing else.
"""

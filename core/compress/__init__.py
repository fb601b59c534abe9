"""A model written anew in fewer bits, as a compressed-tensors folder that other programs read too: `infer models quantize`.

`quantize.py` is the whole way. With calibration texts the model runs layer by layer over them (`walk.py`); the inputs of each linear layer
(`watched.py`) say how outliers of activations are moved into weights (`smoothing.py`) and how weights are rounded so that outputs stay
(`gptq.py`). Without, weights are rounded by themselves. `scheme.py` says how results are stored, `folder.py` writes them.
"""

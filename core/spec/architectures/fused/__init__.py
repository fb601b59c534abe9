"""Decoders with root-mean-square norms whose files have several layers in one tensor."""

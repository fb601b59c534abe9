"""Outputs that lie elsewhere: made in a folder of this machine, then put in place."""

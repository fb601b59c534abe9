"""Files elsewhere: object stores, web servers and the hub, through fsspec."""

"""`infer transcribe`: sounds in, what is said in them out."""

"""What a run would need and do on a TPU slice, from compiling it on any machine."""

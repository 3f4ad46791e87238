"""Runs on Cloud TPUs: submit, keep alive, resume, tear down. `python -m tpu_scripts --help`; see docs/tpu.md."""

import sys

try:
    from tpu_scripts.cli import main

    code = main()
except KeyboardInterrupt:  # while modules are loaded, before `main` handles it
    print("tpu_scripts: interrupted", file=sys.stderr)
    code = 130
sys.exit(code)

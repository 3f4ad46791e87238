"""An OpenAI-compatible HTTP server for a run, and a page to play with it. docs/serving.md tells how to use them."""

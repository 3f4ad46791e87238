"""anchortrain: language models that stay diverse after post-training.

Implements *Annotations Mitigate Post-Training Mode Collapse* (arXiv 2605.09995). Importing the
package loads no heavy dependency; each command imports what it needs.
"""

__version__ = "0.1.0"
